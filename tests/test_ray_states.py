"""States computed by workers of a Ray cluster are those computed here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experts.checkpoint import Checkpoint
from experts.learn import cache_states
from tests.conftest import REPOSITORY, Served
from tests.test_states import nobody, require_same

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

# A driver of its own, so that the tests' process stays free of Ray.
ON_RAY = """
import sys
from pathlib import Path
from cluster.ray_states import run_on_ray
from experts.checkpoint import Checkpoint
from experts.learn import cache_states
from tests.taught_meta import query_set

address, meta, workers_meta, folder = sys.argv[1:]
on_ray = run_on_ray(address, num_workers=2)

def run(checkpoint, batch_size, tasks):
    return on_ray(Checkpoint(workers_meta), batch_size, tasks)

cache_states(Checkpoint(meta), query_set(0, 30), Path(folder), shard_size=30, run=run)
"""


def compute_on_ray(
    served: Served, *, meta: Path, workers_meta: Path, folder: Path, address: str | None = None
) -> subprocess.CompletedProcess[str]:
    address = address or Path(served.head.temp_dir, "ray_current_cluster").read_text("utf-8").strip()
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": served.head.auth_token}
    arguments = [address, *map(str, (meta, workers_meta, folder))]
    return subprocess.run(
        [sys.executable, "-c", ON_RAY, *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_states_computed_on_ray_are_those_computed_here(served, taught_folder, queries, tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    done = compute_on_ray(served, meta=taught_folder, workers_meta=taught_folder, folder=there)
    assert done.returncode == 0, done.stderr
    checkpoint = Checkpoint(str(taught_folder))
    found = cache_states(checkpoint, queries, there, shard_size=30, run=nobody)
    wanted = cache_states(checkpoint, queries, here, shard_size=30)
    require_same(found, wanted, atol=1e-5, rtol=1e-5)


def test_what_a_worker_raises_is_told_in_one_line(served, taught_folder, tmp_path):
    missing = tmp_path / "missing"
    done = compute_on_ray(served, meta=taught_folder, workers_meta=missing, folder=tmp_path / "states")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "RayFailed" in last
    assert f"ModelLoadError: {missing}: no such model folder on node" in last


def test_an_address_where_no_ray_is_is_told_at_once(served, taught_folder, tmp_path):
    done = compute_on_ray(
        served, meta=taught_folder, workers_meta=taught_folder, folder=tmp_path, address="127.0.0.1:1"
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "RayFailed: 127.0.0.1:1: no Ray cluster answers there: " in last
    assert last.endswith("Connection refused; correct --ray")
