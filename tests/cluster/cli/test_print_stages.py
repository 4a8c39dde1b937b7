"""Progress of long commands: bars on a terminal, and lines that say the same in a log."""

from __future__ import annotations

import io
import re
import time

from rich.console import Console

from cluster.cli.print_stages import StageLines, stages


def test_on_a_terminal_a_bar_has_the_count_and_the_time_left():
    shown = io.StringIO()
    with stages(Console(file=shown, force_terminal=True, width=100)) as progress:
        for done in (0, 3, 6):
            progress(done, 7, "states")
            time.sleep(0.15)  # a bar is drawn ten times a second
        progress(7, 7, "states")
        progress(2, 0, "fit")
    text = shown.getvalue()
    assert "━" in text
    assert "7/7" in text
    assert re.search(r"\d:\d\d:\d\d left", text)


def test_in_a_log_a_stage_ends_with_a_line():
    shown = io.StringIO()
    with stages(Console(file=shown, width=20)) as progress:
        for done in (0, 3, 7, 7):
            progress(done, 7, "states of [all] queries")
        progress(1, 0, "fit")
        progress(2, 2, "fit")
    assert shown.getvalue() == "states of [all] queries: 7 of 7 in 0 s\nfit: 2 of 2 in 0 s\n"


def test_in_a_log_a_line_comes_again_and_again_even_if_nothing_is_reported():
    shown = io.StringIO()
    with stages(Console(file=shown, width=100), interval_s=0.01) as progress:
        progress(0, 7, "states")
        deadline = time.monotonic() + 30
        while shown.getvalue().count("\n") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    lines = shown.getvalue().splitlines()
    assert set(lines) <= {f"states: 0 of 7, {seconds} s so far" for seconds in range(30)}
    time.sleep(0.05)
    assert shown.getvalue().splitlines() == lines


class Watch:
    """Lines of stages at times that a test chooses."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.printed: list[str] = []
        self.lines = StageLines(self.printed.append, lambda: self.now_s)

    def ticked(self) -> str:
        self.lines.tick()
        return self.printed[-1]


def test_the_time_left_follows_from_what_this_run_has_done():
    watch = Watch()
    watch.lines.report(100, 1000, "states")  # an earlier run did a hundred
    watch.now_s = 10
    assert watch.ticked() == "states: 100 of 1000, 10 s so far"
    watch.lines.report(200, 1000, "states")
    watch.now_s = 20
    assert watch.ticked() == "states: 200 of 1000, 20 s so far, about 2 min 40 s left"
    watch.now_s = 3700
    watch.lines.report(1000, 1000, "states")
    assert watch.ticked() == "states: 1000 of 1000 in 1 h 1 min"
    assert len(watch.printed) == 3


def test_without_a_total_only_the_count_is_known():
    watch = Watch()
    watch.lines.report(1, 0, "fit")
    watch.now_s = 6
    watch.lines.report(8, 0, "fit")
    assert watch.ticked() == "fit: 8, 6 s so far"


def test_a_stage_that_begins_again_with_other_queries_is_a_new_one():
    watch = Watch()
    watch.lines.report(5, 5, "states")
    watch.now_s = 60
    watch.lines.report(0, 9, "states")
    watch.now_s = 70
    watch.lines.report(9, 9, "states")
    assert watch.printed == ["states: 5 of 5 in 0 s", "states: 9 of 9 in 10 s"]
