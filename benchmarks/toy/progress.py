"""Training progress: a bar for each model on a terminal, lines of text otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

# (model, step, max_steps, validation accuracy); step == max_steps: the model is done, perhaps early
Progress = Callable[[str, int, int, float], None]


@contextmanager
def showing_progress(names: Sequence[str]) -> Iterator[Progress]:
    console = Console()
    if not console.is_terminal:
        yield _line
        return
    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  accuracy {task.fields[accuracy]:.2f}"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console) as bars:
        tasks = {name: bars.add_task(name, start=False, total=1, accuracy=0.0) for name in names}

        def show(name: str, step: int, max_steps: int, accuracy: float) -> None:
            if not bars.tasks[tasks[name]].started:
                bars.start_task(tasks[name])
            bars.update(tasks[name], completed=step, total=max_steps, accuracy=accuracy)

        yield show


def _line(name: str, step: int, max_steps: int, accuracy: float) -> None:
    if step % 100 == 0 or step == max_steps:
        print(
            f"training {name}: step {step} of at most {max_steps}, validation accuracy {accuracy:.2f}",
            flush=True,
        )
