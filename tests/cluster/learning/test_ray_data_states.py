"""States computed by workers of a Ray cluster are those computed here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experts.checkpoint import Checkpoint
from experts.learn import cache_states
from tests.conftest import REPOSITORY, Served
from tests.experts.learn.test_hidden_states import must_not_run, require_same

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

# A driver of its own, so that the tests' process stays free of Ray; one for all tests, as it starts slowly.
ON_RAY = """
import sys
from pathlib import Path
from cluster.learning.ray_data_states import run_on_ray
from experts.checkpoint import Checkpoint
from experts.learn import cache_states
from tests.tiny.taught_meta import query_set

address, meta, folder = sys.argv[1:]

def compute(name, address, workers_meta):
    def run(checkpoint, batch_size, tasks):
        return run_on_ray(address, num_workers=2)(Checkpoint(workers_meta), batch_size, tasks)
    try:
        cache_states(Checkpoint(meta), query_set(0, 30), Path(folder, name), shard_size=30, run=run)
    except Exception as error:
        Path(folder, name + ".error").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")

compute("no-ray", "127.0.0.1:1", meta)
compute("no-model", address, folder + "/missing")
compute("computed", address, meta)
"""


@pytest.fixture(scope="module")
def outcomes(served: Served, taught_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the states or the error of each run."""
    folder = tmp_path_factory.mktemp("outcomes")
    address = Path(served.head.temp_dir, "ray_current_cluster").read_text("utf-8").strip()
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": served.head.auth_token}
    command = [sys.executable, "-c", ON_RAY, address, str(taught_folder), str(folder)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_states_computed_on_ray_are_those_computed_here(outcomes, taught_folder, queries, tmp_path):
    checkpoint = Checkpoint(str(taught_folder))
    found = cache_states(checkpoint, queries, outcomes / "computed", shard_size=30, run=must_not_run)
    wanted = cache_states(checkpoint, queries, tmp_path, shard_size=30)
    require_same(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_workers_error_is_reported_in_one_line(outcomes):
    (line,) = (outcomes / "no-model.error").read_text("utf-8").splitlines()
    assert "RayFailed" in line
    assert f"ModelLoadError: {outcomes / 'missing'}: no such model folder on node" in line


def test_an_address_without_ray_is_reported(outcomes):
    (line,) = (outcomes / "no-ray.error").read_text("utf-8").splitlines()
    assert "RayFailed: 127.0.0.1:1: no Ray cluster answers there: " in line
    assert line.endswith("Connection refused; correct --ray")
