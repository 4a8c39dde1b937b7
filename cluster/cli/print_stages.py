"""Shows how far the stages of a long command are: as bars on a terminal, and as plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock, Thread

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from experts.learn.hidden_states import Progress

LINE_INTERVAL_S = 5.0
_SPEED_PERIOD_S = 600.0  # one batch of a large model may take minutes


@contextmanager
def stages(console: Console, interval_s: float = LINE_INTERVAL_S) -> Iterator[Progress]:
    """A bar for each stage; if the output is not a terminal, a line every `interval_s` and at its end."""
    with _bars(console) if console.is_terminal else _lines(console, interval_s) as progress:
        yield progress


class StageLines:
    """Says in plain lines how far the current stage is. `print_line` is called with each line."""

    def __init__(
        self, print_line: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._print_line = print_line
        self._clock = clock
        self._stage: _Stage | None = None
        self._lock = Lock()  # `tick` is called by another thread

    def report(self, done: int, total: int, what: str) -> None:
        """A `Progress`: prints a line when the stage is complete."""
        with self._lock:
            stage = self._stage
            if stage is None or stage.what != what or (stage.is_complete and stage.total != total):
                stage = self._stage = _Stage(what, self._clock(), num_before=done)
            was_complete = stage.is_complete
            stage.done, stage.total = done, total
            if stage.is_complete and not was_complete:
                self._print_line(stage.line(self._clock()))

    def tick(self) -> None:
        """Prints a line if a stage is under way."""
        with self._lock:
            if self._stage is not None and not self._stage.is_complete:
                self._print_line(self._stage.line(self._clock()))


@dataclass
class _Stage:
    """`num_before`: how many were done already when it began, by an earlier run."""

    what: str
    begun_s: float
    num_before: int
    done: int = 0
    total: int = 0

    @property
    def is_complete(self) -> bool:
        return 0 < self.total <= self.done

    def line(self, now_s: float) -> str:
        count = f"{self.what}: {self.done} of {self.total}" if self.total else f"{self.what}: {self.done}"
        passed_s = now_s - self.begun_s
        if self.is_complete:
            return f"{count} in {_duration(passed_s)}"
        num_new = self.done - self.num_before
        if not self.total or num_new <= 0:
            return f"{count}, {_duration(passed_s)} so far"
        left_s = passed_s / num_new * (self.total - self.done)
        return f"{count}, {_duration(passed_s)} so far, about {_duration(left_s)} left"


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        _TimeLeft(),
    )
    with Bars(*columns, console=console, speed_estimate_period=_SPEED_PERIOD_S) as bars:
        tasks: dict[str, TaskID] = {}

        def on_progress(done: int, total: int, what: str) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=None)
            bars.update(tasks[what], completed=done, total=total or None)

        yield on_progress


class _TimeLeft(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        if task.finished or task.total is None:
            return Text()
        return super().render(task).append(" left")


@contextmanager
def _lines(console: Console, interval_s: float) -> Iterator[Progress]:
    lines = StageLines(lambda line: console.print(line, markup=False, soft_wrap=True))
    ended = Event()
    ticker = Thread(target=_tick, args=(lines, ended, interval_s), daemon=True)
    ticker.start()
    try:
        yield lines.report
    finally:
        ended.set()
        ticker.join()


def _tick(lines: StageLines, ended: Event, interval_s: float) -> None:
    while not ended.wait(interval_s):
        lines.tick()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
