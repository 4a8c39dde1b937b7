"""What `etr up`, `etr apply` and `etr ask` print."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.status import Status
from rich.text import Text

from cluster.client.chat import AnswerPart
from cluster.serve.app_status import ANSWERS, AppEvent, OnEvent
from cluster.serve.serve_details import FAILED, RUNNING, UNHEALTHY

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")
STYLES = {RUNNING: "green", ANSWERS: "bold green", FAILED: "bold red", UNHEALTHY: "red"}


def progress(console: Console, spinner: Status) -> OnEvent:
    """A callback that prints each event of a change as a line."""
    printed: set[tuple[str, str]] = set()

    def on_event(event: AppEvent) -> None:
        line = Text(f"{event.app:<24} ").append(event.status, STYLES.get(event.status, "dim"))
        if event.message and (event.app, event.message) not in printed:  # Serve repeats it
            printed.add((event.app, event.message))
            line.append(f"  {event.message}")
        console.print(line)
        spinner.update(f"{event.app} {event.status.lower()}")

    return on_event


def ready(console: Console, url: str, model: str) -> None:
    """The URL of the cluster, and commands to call it with."""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    console.print(f"\n[bold green]{model}[/] answers at [bold]{url}/v1[/]\n")
    lines = (
        f'  etr ask "Hello!" --trace --url {url} --model {model}',
        f"  curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'",
        f"  OpenAI(base_url='{url}/v1', api_key='none')",
        "  etr status, etr down",
    )
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def trace(console: Console, parts: Sequence[AnswerPart]) -> None:
    """The answer once more, with a colour for each model."""
    colours: dict[str, str] = {}
    console.print()
    for writer, run in groupby(parts, key=lambda part: part.writer or "unknown"):
        colour = colours.setdefault(writer, COLOURS[len(colours) % len(COLOURS)])
        console.print(Text(f"{writer:>16}  ", "bold " + colour).append("".join(p.text for p in run), colour))
