"""What the benchmark of hand-overs counts, from the moments that processes write down."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.handing.stamps import Stamps, Way, read_stamps

DIRECT = {"sent": 10.0, "called": 10.25, "made": 13.25, "prefill": 2.0, "heard": 13.75}
HANDED_OVER = {**DIRECT, "decided": 8.0, "told": 9.5}


@pytest.mark.parametrize(
    ("events", "gap_s"), [(HANDED_OVER, 8.0 + 5.75 - 10.0), (DIRECT, 13.75 - 10.0 - 2.0)]
)
def test_the_gap_is_all_from_the_decision_to_the_first_token_but_the_prefill(events, gap_s):
    way = Way.of(events)
    assert way.gap_s == gap_s
    assert dict(way.parts())["in its engine, before the prefill"] == 1.0
    assert way.prefill_s == 2.0


def test_an_answer_without_an_expert_has_no_way():
    with pytest.raises(KeyError):
        Way.of({"decided": 1.0, "told": 2.0})


def test_what_processes_write_down_is_put_together_by_request(tmp_path: Path):
    for event in ("sent", "called"):  # of two processes, whose files have two names
        Stamps(str(tmp_path)).put("a", event)
        (tmp_path / f"{next(tmp_path.glob('[0-9]*.jsonl')).name}").rename(tmp_path / f"of-{event}.jsonl")
    Stamps(str(tmp_path)).put("b", "prefill", 0.5)
    stamps = read_stamps(tmp_path)
    assert stamps["b"] == {"prefill": 0.5}
    assert stamps["a"]["sent"] <= stamps["a"]["called"]
