"""OpenAI's SDK for Node, against a real server."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from router.dialects.app import build_app
from tests.clients.scripts import gateway
from tests.fakes.models import served

NPM = Path(__file__).resolve().parents[4] / ".cache" / "npm"
SCRIPT = Path(__file__).with_name("node_sdk.mjs")
ANSWER = "IX\nas the Romans wrote"


@pytest.mark.skipif(
    not shutil.which("node") or not (NPM / "node_modules" / "openai").exists(),
    reason="!!! Node or OpenAI's SDK for it is missing (make node-packages): it is NOT tested !!!",
)
def test_the_sdk_for_node_is_answered():
    with served(build_app(gateway())) as url:
        command = ["node", str(SCRIPT), str(NPM), f"{url}/v1"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "whole": ANSWER,
        "streamed": ANSWER,
        "final": ANSWER,
        "first": "response.created",
        "last": "response.completed",
        "calls": [["to_roman", '{"number": 9}'], ["to_roman", '{"number": 8}']],
        "refused": {"status": 400, "code": "unsupported_parameter", "param": "previous_response_id"},
    }
