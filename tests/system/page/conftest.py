"""A browser with the page open, in front of a router with fake models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.fakes.page import PageWorld, page_world
from tests.system.page.browser import chromium, launched

TIMEOUT_MS = 60_000  # the tests may share two cores with many others


# Not for the session: while Playwright runs, no other test in the process can run an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = chromium()
    if executable is None:
        pytest.skip(
            "!!! The page is NOT tested: there is no chromium; make system-packages installs it as root !!!"
        )
    expect.set_options(timeout=TIMEOUT_MS)
    with launched(executable) as browser:
        yield browser


@pytest.fixture
def world() -> Iterator[PageWorld]:
    with page_world() as world:
        yield world


@dataclass
class Visit:
    """The page in one browser context. `problems`: what it wrote to the console, and its errors."""

    page: Page
    world: PageWorld
    hosts: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(TIMEOUT_MS)
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))

    def open(self, tab: str = "ask") -> None:
        self.page.goto(f"{self.world.url}/#{tab}")

    def ask(self, question: str) -> None:
        self.page.get_by_label("Question").fill(question)
        self.page.get_by_label("Question").press("Enter")

    def expect_status(self, text: str, answer: int = 0) -> None:
        expect(self.page.locator(".answer-status").nth(answer)).to_contain_text(text)

    def refused(self, status: int) -> None:
        """Chromium itself writes every refused request to the console."""
        expected = f"status of {status} "
        assert any(expected in problem for problem in self.problems)
        self.problems = [problem for problem in self.problems if expected not in problem]


@pytest.fixture
def visit(browser: Browser, world: PageWorld) -> Iterator[Visit]:
    """Every test ends with an empty console, and with requests to the router alone."""
    context = browser.new_context()
    visit = Visit(context.new_page(), world)
    visit.open()
    yield visit
    context.close()
    assert visit.problems == []
    assert visit.hosts == {urlsplit(world.url).netloc}
