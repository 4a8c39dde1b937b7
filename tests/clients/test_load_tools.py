"""Load tools measure this server with answers of exactly the length that they ask for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.clients.commands import run
from tests.clients.conftest import REPOSITORY, Server

NUM_REQUESTS, NUM_OUTPUT_TOKENS = 6, 12
VLLM = REPOSITORY / ".venv-vllm" / "bin" / "python"
# vLLM's build for CPUs does not start as `vllm`: the command looks for a package of that name.
BENCH_SERVE = """
import argparse
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def test_guidellm_measures_chats(server: Server, tmp_path: Path):
    report = tmp_path / "report.json"
    run(
        *(Path(sys.executable).with_name("guidellm"), "run", "--disable-console"),
        *("--backend", f"kind=openai_http,target={server.url}"),
        *("--profile", "kind=concurrent,streams=3"),
        *("--constraint", f"kind=max_requests,count={NUM_REQUESTS}"),
        *("--tokenizer", f"kind=hf_auto,model={server.tokenizer}"),
        *("--data", f"kind=synthetic_text,prompt_tokens=32,output_tokens={NUM_OUTPUT_TOKENS}"),
        *("--output", f"kind=json,path={report}"),
        folder=tmp_path,
    )
    [benchmark] = json.loads(report.read_text(encoding="utf-8"))["benchmarks"]
    requests = benchmark["requests"]
    assert [len(requests[kind]) for kind in ("successful", "errored")] == [NUM_REQUESTS, 0]
    assert {request["output_tokens"] for request in requests["successful"]} == {NUM_OUTPUT_TOKENS}


@pytest.mark.skipif(not VLLM.exists(), reason="!!! vLLM is not installed: its load tool is NOT tested !!!")
def test_vllm_bench_serve_measures_completions(server: Server, tmp_path: Path):
    run(
        *(VLLM, "-c", BENCH_SERVE, "--base-url", server.url),
        *("--model", "generalist", "--tokenizer", server.tokenizer, "--dataset-name", "random"),
        *("--num-prompts", f"{NUM_REQUESTS}", "--random-input-len", "16"),
        *("--random-output-len", f"{NUM_OUTPUT_TOKENS}", "--ignore-eos"),
        *("--save-result", "--result-filename", tmp_path / "result.json"),
        folder=tmp_path,
    )
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert (result["completed"], result["failed"]) == (NUM_REQUESTS, 0)
    assert result["total_output_tokens"] == NUM_REQUESTS * NUM_OUTPUT_TOKENS
