"""Reports of `etr eval`, `etr learn` and `etr experts add` as pictures."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import expect

from experts.evaluate.learning_report import learning_report
from experts.learn.routing_judge import Judgement
from tests.fakes.evaluation import evaluation
from tests.system.page.conftest import Visit

BEFORE = [Judgement("law", "law"), Judgement("law", "law"), Judgement("chem", None), Judgement(None, "law")]
AFTER = [Judgement("law", "law"), Judgement("law", "chem"), Judgement("chem", "chem"), Judgement(None, None)]


def open_report(visit: Visit, report: dict[str, Any] | str) -> None:
    text = report if isinstance(report, str) else json.dumps(report, allow_nan=False)
    file: Any = {"name": "report.json", "mimeType": "application/json", "buffer": text.encode()}
    visit.page.get_by_label("Report", exact=True).set_input_files(file)


def test_an_evaluation_is_shown_as_matrix_curve_and_bars(visit: Visit):
    visit.open("routing")
    open_report(visit, evaluation().to_json())
    rows = visit.page.locator(".matrix tbody tr")
    expect(rows).to_have_text(["chem2··", "law11·", "(no expert)··1"])
    curve = visit.page.get_by_role("img", name="At the call bias now, 75 % right and 0 % false hand-overs")
    expect(curve).to_be_visible()
    expect(curve.locator("polyline")).to_have_count(2)
    expect(visit.page.locator(".bars tr")).to_contain_text(["tokens"])


def test_what_an_added_expert_changed_is_shown(visit: Visit):
    visit.open("routing")
    report = learning_report(("chem", "law"), BEFORE, AFTER, num_held_out=4, added="chem")
    open_report(visit, report)
    figures = visit.page.locator("#report-figures")
    expect(figures).to_contain_text("Expert chem was added. Judged by 4 queries")
    expect(figures.locator(".bars tr")).to_contain_text(["chem0 % → 100 %", "law100 % → 50 %"])
    expect(figures).to_contain_text("General queries that are handed over: 100 % → 0 %.")
    expect(figures.locator(".matrix .changed")).to_have_text(
        ["0 → 1", "1 → 0", "0 → 1", "2 → 1", "1 → 0", "0 → 1"]
    )


def test_another_file_is_no_report(visit: Visit):
    visit.open("routing")
    problem = visit.page.locator("#report-problem")
    for text in ("{}", "[1]", "no JSON", '{"names": ["a"]}'):
        open_report(visit, text)
        expect(problem).to_have_text("report.json is no report of etr eval, etr learn or etr experts add.")
    open_report(visit, evaluation().to_json())
    expect(problem).to_be_empty()
