"""The state of a cluster on the page, live."""

from __future__ import annotations

from dataclasses import replace

from playwright.sync_api import Locator, expect

from router.load_report import AdapterLoad, ModelLoad, ReplicaLoad
from tests.fakes.page import LOAD
from tests.system.page.conftest import Visit


def cells(visit: Visit, model: str) -> Locator:
    return visit.page.locator(f"[data-model={model}] td")


def test_every_model_has_its_state_replicas_and_load(visit: Visit):
    visit.open("cluster")
    expect(cells(visit, "meta")).to_have_text(["ready", "1/1", "1", "0", "0", "–", "25 %"])
    expect(cells(visit, "roman")).to_have_text(["ready", "1/2", "1", "0", "0", "–", "25 %"])
    expect(cells(visit, "morse").first).to_have_text("asleep")
    expect(visit.page.locator("#model-messages")).to_have_text("roman: waits: no node has 1 GPU free")


def test_why_an_adapter_cannot_be_loaded_is_shown(visit: Visit):
    [replica] = LOAD.replicas
    broken = replace(replica, adapters={"morse": AdapterLoad("v2", None, "no such folder", 0, 0)})
    visit.world.gateway.loads = {"morse": ModelLoad(0, 0, 0, (broken,))}
    visit.open("cluster")
    expect(visit.page.locator("#model-messages")).to_contain_text("morse: no such folder")


def test_a_model_that_goes_away_and_comes_back_is_followed(visit: Visit):
    visit.open("cluster")
    for ready, state in (({"roman"}, "ready"), (set[str](), "masked"), ({"roman"}, "ready")):
        visit.world.gateway.ready = ready
        expect(cells(visit, "roman").first).to_have_text(state)


def test_tokens_a_second_are_those_between_two_loads(visit: Visit):
    visit.open("cluster")
    rate = cells(visit, "roman").nth(5)
    expect(rate).to_have_text("–")
    [replica] = LOAD.replicas
    later: ReplicaLoad = replace(replica, time_s=replica.time_s + 4, num_tokens=replica.num_tokens + 300)
    visit.world.gateway.loads = {"roman": ModelLoad(1, 0, later.num_tokens, (later,))}
    expect(rate).to_have_text("75")
    expect(cells(visit, "meta").nth(2)).to_have_text("–")  # its load is no longer known


def test_hand_overs_and_times_of_the_last_hour_are_shown(visit: Visit):
    for index, question in enumerate(("What is 9?", "And 10?", "a general one")):
        visit.ask(question)
        visit.expect_status("Complete.", index)
    visit.page.get_by_role("tab", name="Cluster").click()
    expect(visit.page.locator("#hour-note")).to_contain_text("3 answers in the last hour")
    expect(visit.page.locator("#handovers tr").first).to_contain_text("roman2 (67 % of answers)")
    expect(visit.page.locator("#phases tr").filter(has_text="writing")).to_contain_text("%")


def test_shadow_experts_are_shown_with_what_they_would_have_taken(visit: Visit):
    heading = visit.page.get_by_role("heading", name="Shadow experts", include_hidden=True)
    expect(heading).to_be_hidden()
    gateway = visit.world.gateway
    gateway.table = gateway.table.model_copy(update={"shadows": ("greek",)})
    for index, question in enumerate(("a general one", "a general one in greek", "What is 9?", "And 10?")):
        visit.ask(question)
        visit.expect_status("Complete.", index)
    visit.page.get_by_role("tab", name="Cluster").click()
    expect(heading).to_be_visible()
    expect(visit.page.locator("#shadow-rates tr")).to_have_text("greek1 of 4 answers (25 %)")


def test_a_router_that_does_not_answer_is_told_and_asked_again(visit: Visit):
    visit.open("cluster")
    expect(cells(visit, "meta").first).to_have_text("ready")
    visit.page.route("**/cluster", lambda route: route.abort())
    note = visit.page.locator("#cluster-note")
    expect(note).to_contain_text("Not up to date: the router does not answer.")
    visit.page.unroute("**/cluster")
    expect(note).to_be_empty()
    visit.problems = [problem for problem in visit.problems if "ERR_FAILED" not in problem]


def test_a_hidden_view_asks_nothing(visit: Visit):
    visit.open("cluster")
    expect(cells(visit, "meta").first).to_have_text("ready")
    asked: list[str] = []
    visit.page.get_by_role("tab", name="Ask").click()
    visit.page.on("request", lambda request: asked.append(request.url))
    visit.ask("What is 9?")
    visit.expect_status("Complete.")
    visit.page.wait_for_timeout(2500)  # longer than the period: nothing is what has to happen
    assert [url for url in asked if url.endswith("/cluster")] == []
