"""What `etr up` and `etr apply` print."""

from __future__ import annotations

from rich.console import Console
from rich.status import Status
from rich.text import Text

from cluster.serve.app_status import ANSWERS, AppEvent, OnEvent
from cluster.serve.serve_details import FAILED, RUNNING, UNHEALTHY

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


def ready(console: Console, url: str, model: str, *, has_page: bool) -> None:
    """The URL of the cluster, commands to call it with, and its page."""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    console.print(f"\n[bold green]{model}[/] answers at [bold]{url}/v1[/]\n")
    lines = (
        f'  etr ask "Hello!" --trace --url {url} --model {model}',
        f"  curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'",
        f"  OpenAI(base_url='{url}/v1', api_key='none')",
        "  etr chat, etr status, etr down",
        *([f"  in a browser: {url}/"] if has_page else []),
    )
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
