"""The gap of a hand-over, computed from the timestamps of all processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.handoff.stamps import Event, HandoffTiming, Stamps, read_stamps

DIRECT = {
    Event.CALL_SENT: 10.0,
    Event.CALL_RECEIVED: 10.25,
    Event.FIRST_TOKEN: 13.25,
    Event.PREFILL: 2.0,
    Event.FIRST_TOKEN_RECEIVED: 13.75,
}
HANDED_OVER = {**DIRECT, Event.DECIDED: 8.0, Event.DECISION_RECEIVED: 9.5}


@pytest.mark.parametrize(
    ("stamps", "gap_s"), [(HANDED_OVER, 8.0 + 5.75 - 10.0), (DIRECT, 13.75 - 10.0 - 2.0)]
)
def test_the_gap_is_the_time_from_decision_to_first_token_without_the_prefill(stamps, gap_s):
    timing = HandoffTiming.of(stamps)
    assert timing.gap_s == gap_s
    assert dict(timing.parts())["in its engine, before the prefill"] == 1.0
    assert timing.prefill_s == 2.0


def test_an_answer_without_an_expert_has_no_timing():
    with pytest.raises(KeyError):
        HandoffTiming.of({Event.DECIDED: 1.0, Event.DECISION_RECEIVED: 2.0})


def test_stamps_of_all_processes_are_merged_by_request(tmp_path: Path):
    for event in (Event.CALL_SENT, Event.CALL_RECEIVED):  # the files of two processes have different names
        Stamps(str(tmp_path)).put("a", event)
        (tmp_path / f"{next(tmp_path.glob('[0-9]*.jsonl')).name}").rename(tmp_path / f"of-{event}.jsonl")
    Stamps(str(tmp_path)).put("b", Event.PREFILL, 0.5)
    stamps = read_stamps(tmp_path)
    assert stamps["b"] == {Event.PREFILL: 0.5}
    assert stamps["a"][Event.CALL_SENT] <= stamps["a"][Event.CALL_RECEIVED]
