"""The page on a phone, in light and dark, and for people who do not see it or use no mouse."""

from __future__ import annotations

from typing import Literal

import pytest
from playwright.sync_api import Browser, expect

from tests.fakes.evaluation import evaluation
from tests.fakes.page import TOOL, PageWorld
from tests.system.page.browser import AXE, PHONE, barriers, overflow_px
from tests.system.page.conftest import Visit
from tests.system.page.test_ask import COMPLETE, NINE
from tests.system.page.test_routing import open_report

TABS = ("ask", "cluster", "routing")


def fill(visit: Visit) -> None:
    """Something in every view, with every fold open."""
    page = visit.page
    page.get_by_text("Settings of the request").click()
    visit.ask(NINE)
    visit.expect_status(COMPLETE)
    page.get_by_label("Further fields").fill(TOOL)
    visit.ask("What time is it?")
    visit.expect_status("Complete: tools", 1)
    page.get_by_text("Why roman took over").first.click()
    expect(page.locator(".decision .bars").first).to_be_visible()
    page.locator("summary").filter(has_text="This request as code").first.click()
    visit.open("routing")
    open_report(visit, evaluation().to_json())
    expect(page.locator(".matrix")).to_be_visible()
    visit.open("cluster")
    expect(page.locator("[data-model=meta] .state")).to_have_text("ready")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barriers(browser: Browser, world: PageWorld, scheme: Literal["light", "dark"]):
    if not AXE.is_file():
        pytest.skip("!!! Barriers are NOT looked for: make node-packages fetches axe-core !!!")
    context = browser.new_context(color_scheme=scheme)
    visit = Visit(context.new_page(), world)
    visit.open()
    fill(visit)
    for tab in TABS:
        visit.open(tab)
        assert barriers(visit.page) == []
    context.close()


def test_nothing_is_wider_than_a_phone(browser: Browser, world: PageWorld):
    context = browser.new_context(viewport=PHONE, is_mobile=True, has_touch=True)
    visit = Visit(context.new_page(), world)
    visit.open()
    fill(visit)
    for tab in TABS:
        visit.open(tab)
        assert overflow_px(visit.page) == 0
    context.close()
