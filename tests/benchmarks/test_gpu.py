"""The benchmark for GPUs runs on a machine without one, in a small shape, and says what it skipped."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.conformance import _counts
from benchmarks.gpu.setting import SHAPES, Setting

pytestmark = [pytest.mark.models, pytest.mark.timeout(1800)]

TINY = ["--shape", "tiny", "--num-streams", "1", "3", "--num-tokens", "4", "--num-prompt-chars", "60"]


def test_a_part_is_measured_and_one_without_its_packages_is_skipped(tmp_path: Path):
    """With both engines where vLLM is installed."""
    parts = ["--parts", "engine-transformers", "engine-vllm"]
    command = [sys.executable, "-m", "benchmarks.gpu", *TINY, *parts, "--num-rounds", "1"]
    done = subprocess.run(
        [*command, "--scratch", str(tmp_path)], capture_output=True, text=True, timeout=1700
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    rows = report["parts"]["engine-transformers"]["results"]
    assert [(row["name"], row["num_streams"]) for row in rows] == [
        ("ours, transformers", 1),
        ("ours, transformers, as a meta", 1),
        ("ours, transformers", 3),
        ("ours, transformers, as a meta", 3),
    ]
    assert all(row["tokens_per_s"] > 0 and row["first_text_ms"] > 0 for row in rows)
    if not find_spec("vllm"):
        assert report["parts"]["engine-vllm"] == {"skipped": "vllm is not installed here"}
        assert "engine-vllm: skipped: vllm is not installed here" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_fails_is_reported_and_the_others_go_on(tmp_path: Path):
    setting = Setting("tiny", str(tmp_path / "nothing"), (1,), 10, 2, 1)
    assert "failed" in gpu._part("engine-transformers", setting)


def test_the_cache_holds_all_streams(tmp_path: Path):
    """An 8B with grouped keys takes 128 KiB a token in bfloat16."""
    assert SHAPES["8b"].num_cached_numbers == 64 * 1024
    model = Setting("8b", str(tmp_path), (1, 256), 256, 128, 3).model
    assert model.max_streams == 256
    assert model.cache_bytes >= 256 * model.max_model_len * 128 * 1024


def test_failed_tests_of_the_conformance_are_named(tmp_path: Path):
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase name="a"/><testcase name="b"><failure/></testcase>'
        '<testcase name="c"><skipped/></testcase></testsuite></testsuites>'
    )
    assert _counts(report) == {"num_passed": 1, "num_skipped": 1, "failed": ["b"]}


@pytest.mark.parametrize("shape", SHAPES)
def test_heads_fill_the_hidden_state(shape: str):
    sizes = SHAPES[shape]
    num_heads = sizes.hidden_size // sizes.head_dim
    assert num_heads * sizes.head_dim == sizes.hidden_size
    assert num_heads % sizes.heads_per_key == 0
