"""The chat of the page, in Chromium."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from router.errors import Overloaded
from tests.fakes.models import FakeModel
from tests.fakes.page import TOOL
from tests.system.page.conftest import Visit

NINE = "What is 9 in roman numerals?"
COMPLETE = "Complete."


def answers(page: Page):
    return page.locator(".answer")


def by(page: Page, model: str, answer: int = 0):
    """What this model wrote, with its colour."""
    colour = "author-meta" if model == "meta" else {"roman": "author-0", "morse": "author-1"}[model]
    return answers(page).nth(answer).locator(f".markdown .by.{colour}")


def ask_again(page: Page, who: str, answer: int = 0) -> None:
    answers(page).nth(answer).get_by_label("Who may answer").select_option(label=who)
    answers(page).nth(answer).get_by_role("button", name="Ask again").click()


def kept(page: Page) -> int:
    number: int = page.evaluate("localStorage.length")
    return number


def test_the_text_of_two_authors_arrives_while_it_is_written(visit: Visit):
    page, world = visit.page, visit.world
    world.meta.gate.clear()
    world.roman.gate.clear()
    visit.ask(NINE)
    expect(by(page, "meta")).to_have_text("It is ")
    visit.expect_status("Writing")
    world.meta.gate.set()
    expect(by(page, "roman").first).to_have_text("IX, ")
    visit.expect_status("Writing")
    world.roman.gate.set()
    visit.expect_status(COMPLETE)
    expect(answers(page).locator(".markdown .name-label")).to_have_text(["meta", "roman 92 %"])
    rows = answers(page).locator(".spans tbody tr")
    expect(rows).to_contain_text(["meta–1 token", "roman92 %5 tokens"])
    expect(page.locator("#announcer")).to_have_text("Complete. Written by meta and roman.")


def test_markdown_is_shown_and_html_is_text(visit: Visit):
    visit.ask(NINE)
    visit.expect_status(COMPLETE)
    text = visit.page.locator(".markdown")
    expect(text.locator("strong")).to_have_text("nine")
    expect(text.locator("li")).to_have_count(2)
    expect(text.get_by_role("cell", name="XL")).to_be_visible()
    expect(text).to_contain_text("<img src=x onerror=alert(1)>")
    expect(text.locator("img, script")).to_have_count(0)
    expect(text.get_by_role("link")).to_have_count(1)  # the picture; a javascript: link is none
    expect(text.get_by_role("link")).to_have_attribute("href", "https://elsewhere.example/x.png")


def test_the_decision_at_a_hand_over_is_shown_as_bars(visit: Visit):
    visit.ask(NINE)
    visit.expect_status(COMPLETE)
    visit.page.get_by_text("Why roman took over").click()
    rows = visit.page.locator(".decision tr")
    expect(rows).to_contain_text(
        ["roman92 %", "morse3.0 %", "no expert: the likeliest word of the meta4.0 %"]
    )
    assert not visit.world.meta.asks[-1].probe


def test_the_meta_is_asked_for_a_decision_that_the_trace_does_not_have(visit: Visit):
    visit.ask(f"{NINE} untold")
    visit.expect_status(COMPLETE)
    visit.page.get_by_text("Why roman took over").click()
    rows = visit.page.locator(".decision tr")
    expect(rows).to_contain_text(["roman92 %", "morse3.0 %", "no expert: a word of the meta5.0 %"])
    probe = visit.world.meta.asks[-1]
    assert probe.probe
    assert probe.prompt.written == "It is "


def test_another_expert_answers_beside_the_first_answer(visit: Visit):
    visit.ask(NINE)
    visit.expect_status(COMPLETE)
    ask_again(visit.page, "by morse")
    expect(by(visit.page, "morse", 1)).to_have_text("----.")
    ask_again(visit.page, "without roman")
    expect(by(visit.page, "meta", 2)).to_have_text("I answer this myself.")
    expect(by(visit.page, "roman").first).to_have_text("IX, ")
    left, right = answers(visit.page).nth(0).bounding_box(), answers(visit.page).nth(1).bounding_box()
    assert left is not None
    assert right is not None
    assert left["y"] == right["y"]
    answers(visit.page).nth(1).get_by_label("Go on from this answer").check()
    visit.ask("And 8?")
    visit.expect_status(COMPLETE, 3)
    history = visit.world.meta.asks[-1].prompt.messages
    assert history is not None
    assert [message.content for message in history] == [NINE, "----.", "And 8?"]


def test_a_stopped_answer_frees_its_slot(visit: Visit):
    visit.world.roman.gate.clear()
    visit.ask(NINE)
    expect(by(visit.page, "roman").first).to_be_visible()
    assert visit.world.roman.num_open == 1
    answers(visit.page).get_by_role("button", name="Stop").click()
    visit.expect_status("Stopped.")
    expect(by(visit.page, "roman").first).to_have_text("IX, ")
    visit.world.roman.gate.set()  # the fake waits in a thread, which cannot be cancelled
    assert visit.world.roman.all_closed.wait(10)
    assert not visit.world.gateway.admission.load()["roman"]["num_running"]
    answers(visit.page).get_by_role("button", name="Retry").click()
    visit.expect_status(COMPLETE)
    expect(answers(visit.page)).to_have_count(1)


def test_a_busy_cluster_is_shown_as_such(visit: Visit):
    visit.world.gateway.models = {"meta": FakeModel(lambda ask: [Overloaded("the meta is busy", 7)])}
    visit.ask(NINE)
    visit.expect_status("Too busy, or too many requests (429): the meta is busy. Try again in 7 seconds.")
    visit.refused(429)
    visit.world.gateway.models = {"meta": visit.world.meta, "roman": visit.world.roman}
    answers(visit.page).get_by_role("button", name="Retry").click()
    visit.expect_status(COMPLETE)


def test_an_error_behind_some_text_leaves_the_text(visit: Visit):
    broken = FakeModel(lambda ask: [*visit.world.roman.script(ask)][:3] + [Overloaded("roman is gone")])
    visit.world.gateway.models = {"meta": visit.world.meta, "roman": broken}
    visit.ask(NINE)
    visit.expect_status("roman is gone")
    expect(by(visit.page, "roman").first).to_have_text("IX")


def test_an_expert_that_is_away_does_not_answer_until_it_is_back(visit: Visit):
    visit.world.gateway.ready = set()
    visit.ask(NINE)
    expect(by(visit.page, "meta")).to_have_text("I answer this myself.")
    visit.world.gateway.ready = {"roman"}
    answers(visit.page).get_by_role("button", name="Retry").click()
    expect(by(visit.page, "roman").first).to_have_text("IX, ")


def test_a_wrong_key_is_refused_and_the_right_one_stays_in_the_tab(visit: Visit):
    page, right = visit.page, visit.world.require_key()
    page.reload()
    expect(page.locator("#connection")).to_contain_text("An API key is needed: missing API key")
    for key, text in (("a-wrong-key-0123456789", "unknown or revoked API key"), (right, "")):
        page.get_by_label("API key, kept in this tab only").fill(key)
        page.get_by_role("button", name="Use").click()
        expect(page.locator("#connection")).to_contain_text(text)
    expect(page.locator("#connection")).to_be_empty()
    visit.refused(401)
    visit.ask(NINE)
    visit.expect_status(COMPLETE)
    assert kept(page) == 0
    page.get_by_text("This request as code").click()
    expect(page.locator(".code pre").first).to_contain_text("Bearer $ETR_API_KEY")
    assert right not in page.content()


def test_a_conversation_is_kept_only_if_the_user_asks_for_that(visit: Visit):
    page = visit.page
    visit.ask(NINE)
    visit.expect_status(COMPLETE)
    assert kept(page) == 0
    page.get_by_text("Settings of the request").click()
    page.get_by_label("Keep this conversation").check()
    page.reload()
    expect(by(page, "roman").first).to_have_text("IX, ")
    page.get_by_text("Settings of the request").click()
    page.get_by_label("Keep this conversation").uncheck()
    assert kept(page) == 0
    page.reload()
    expect(answers(page)).to_have_count(0)


def test_thoughts_and_tool_calls_are_shown_and_results_go_back(visit: Visit):
    page = visit.page
    page.get_by_text("Settings of the request").click()
    page.get_by_label("Further fields").fill(TOOL)
    visit.ask("What time is it?")
    visit.expect_status("Complete: tools are called.")
    expect(page.locator(".reasoning pre")).to_have_text("I need the time.")
    expect(page.locator(".call")).to_contain_text('{"zone": "UTC"}')
    page.get_by_label("Result of clock").fill("noon")
    page.get_by_role("button", name="Send results").click()
    visit.expect_status(COMPLETE, 1)
    messages = visit.world.roman.asks[-1].prompt.messages
    assert messages is not None
    assert (messages[-1].role, messages[-1].content) == ("tool", "noon")
    assert messages[-1].tool_call_id == messages[-2].tool_calls[0].id


def test_the_settings_are_in_the_request_and_in_its_code(visit: Visit):
    page = visit.page
    page.get_by_text("Settings of the request").click()
    values = {
        "Temperature": "0.5",
        "top_p": "0.9",
        "max_tokens": "40",
        "seed": "3",
        "System message": "Don't",
    }
    for label, value in values.items():
        page.get_by_label(label).fill(value)
    visit.ask(NINE)
    visit.expect_status(COMPLETE)
    call = visit.world.meta.asks[-1]
    assert (call.sampling.temperature, call.sampling.top_p, call.max_tokens) == (0.5, 0.9, 40)
    assert call.prompt.messages is not None
    assert call.prompt.messages[0].content == "Don't"
    page.get_by_text("This request as code").click()
    curl, python = page.locator(".code pre").all_inner_texts()
    assert "Don'\\''t" in curl
    compile(python, "request.py", "exec")
    assert "temperature=0.5," in python
    page.get_by_label("Further fields").fill("[1]")
    visit.ask("again")
    expect(page.locator("#ask-problem")).to_contain_text("not a JSON object")


def test_a_conversation_needs_no_mouse(visit: Visit):
    page = visit.page
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("tab", name="Ask")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Cluster")).to_be_focused()
    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tab", name="Ask")).to_be_focused()
    expect(page.get_by_label("Question")).to_be_visible()
    for _ in range(2):  # past the fold for the key
        page.keyboard.press("Tab")
    expect(page.get_by_label("Question")).to_be_focused()
    page.keyboard.type(NINE)
    page.keyboard.press("Enter")
    visit.expect_status(COMPLETE)
