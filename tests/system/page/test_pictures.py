"""The pictures for the documentation can be taken, and are small."""

from __future__ import annotations

import json
from pathlib import Path

from playwright.sync_api import Browser

from tests.fakes.evaluation import evaluation
from tests.fakes.page import PageWorld
from tests.system.page.pictures import take

MAX_BYTES = 150_000


def test_every_view_is_pictured(browser: Browser, world: PageWorld, tmp_path: Path):
    report = tmp_path / "evaluation.json"
    report.write_text(json.dumps(evaluation().to_json()), encoding="utf-8")
    paths = take(browser, world.url, ["What is 9 in roman numerals?"], report, tmp_path / "assets")
    assert [path.name for path in paths] == ["page-ask.png", "page-cluster.png", "page-routing.png"]
    for path in paths:
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < MAX_BYTES
