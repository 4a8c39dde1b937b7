"""Takes the pictures of the page for the documentation.

    python -m tests.system.page.pictures [--url http://127.0.0.1:8000] [--question TEXT …] [--report FILE] [--out docs/assets]

Without a URL, the pictures show fake models.
"""  # noqa: E501

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize, expect

from tests.fakes.page import page_world
from tests.system.page.browser import REPOSITORY, chromium, launched

SIZE = ViewportSize(width=1100, height=760)
ANSWER_TIMEOUT_MS = 300_000  # of a real model on a CPU


def take(browser: Browser, url: str, questions: list[str], report: Path | None, out: Path) -> list[Path]:
    """Writes page-ask.png, page-cluster.png and, with a report, page-routing.png. Returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    page = browser.new_page(viewport=SIZE)
    page.set_default_timeout(ANSWER_TIMEOUT_MS)
    page.goto(f"{url}/#ask")
    page.get_by_text("Settings of the request").click()
    page.get_by_label("Temperature").fill("0")  # the same answers in each picture
    page.get_by_text("Settings of the request").click()
    for index, question in enumerate(questions):
        _ask(page, question, index)
    pictures = [_picture(page, out / "page-ask.png")]
    page.get_by_role("tab", name="Cluster").click()
    expect(page.locator("#phases tr").first).to_be_visible()
    page.wait_for_timeout(5000)  # two loads, for tokens a second
    pictures.append(_picture(page, out / "page-cluster.png"))
    if report is not None:
        page.get_by_role("tab", name="Routing").click()
        page.get_by_label("Report", exact=True).set_input_files(report)
        expect(page.locator(".matrix")).to_be_visible()
        pictures.append(_picture(page, out / "page-routing.png"))
    page.close()
    return pictures


def _ask(page: Page, question: str, index: int) -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_label("Question").press("Enter")
    answer = page.locator(".answer").nth(index)
    expect(answer.locator(".answer-status")).to_contain_text("Complete", timeout=ANSWER_TIMEOUT_MS)
    answer.locator(".decision summary").first.click()
    expect(answer.locator(".decision .bars")).to_be_visible()


def _picture(page: Page, path: Path) -> Path:
    page.screenshot(path=path, full_page=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running cluster; without it, fake models")
    parser.add_argument("--question", action="append", help="may be given several times")
    parser.add_argument("--report", type=Path, help="evaluation.json, or a file of etr learn --report")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "assets")
    options = parser.parse_args()
    executable = chromium()
    if executable is None:
        sys.exit("there is no chromium: make system-packages installs it as root")
    questions = options.question or ["What is 9 in roman numerals?"]
    world = nullcontext(options) if options.url else page_world()
    with world as cluster, launched(executable) as browser:
        for path in take(browser, cluster.url.rstrip("/"), questions, options.report, options.out):
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
