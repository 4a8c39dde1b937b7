"""Debian's Chromium, and axe-core, which looks for barriers; both may be missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

REPOSITORY = Path(__file__).resolve().parents[3]
AXE = REPOSITORY / ".cache" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
PHONE = ViewportSize(width=320, height=640)


def chromium() -> str | None:
    return shutil.which("chromium")


@contextmanager
def launched(executable: str) -> Iterator[Browser]:
    # Chromium's sandbox does not run as root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=[*options, "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


def barriers(page: Page) -> list[str]:
    """What axe-core finds wrong: the rule, and the elements that break it."""
    # The page's own policy permits no script that it did not bring; the test's is none of its scripts.
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")
    return [
        f"{rule['id']}: {node['html']} ({node['failureSummary']})"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


def overflow_px(page: Page) -> int:
    """How much wider the document is than the window."""
    width: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return width
