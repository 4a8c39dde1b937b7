"""What `etr status` prints: a table of the models, and below it their errors, each once."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.status.model_status import MAKE_ROOM, ClusterStatus, ModelState, ModelStatus, remedy_for_error

STYLES = {
    ModelState.READY: "bold green",
    ModelState.STARTING: "yellow",
    ModelState.ASLEEP: "dim",
    ModelState.WAKING: "cyan",
    ModelState.UNAVAILABLE: "red",
    ModelState.MASKED: "magenta",
    ModelState.FAILED: "bold red",
    ModelState.STOPPING: "dim",
    ModelState.UNSCHEDULED: "red",
}
UNKNOWN = "-"
NUMBERS = ("replicas", "running", "queued", "tokens/s")


def cluster_status(status: ClusterStatus) -> RenderableType:
    if not status.models:
        return Text("nothing is deployed; run `etr apply`")
    table = Table("model", "state")
    for number in NUMBERS:
        table.add_column(number, justify="right")
    table.add_column("node")
    for model in status.models:
        table.add_row(*_row(model))
    return Group(table, *_problems(status), *_ejected(status), *(Text(note, "dim") for note in status.notes))


def _row(model: ModelStatus) -> Iterator[Text]:
    yield Text(f"  {model.name}" if model.pool else model.name)
    yield Text(model.state, STYLES[model.state])
    yield Text(f"{model.num_ready}/{model.num_wanted}")
    yield Text(_number(model.num_running))
    yield Text(_number(model.num_queued))
    yield Text(_number(model.tokens_per_s))
    yield Text(
        " ".join(sorted({replica.node_ip for replica in model.replicas if replica.node_ip})) or UNKNOWN
    )


def _number(number: float | None) -> str:
    return UNKNOWN if number is None else f"{number:.0f}"


def _problems(status: ClusterStatus) -> Iterator[Text]:
    """One line for each reason, with all models that it concerns."""
    errors, waits = _by_reason(status, "error"), _by_reason(status, "waits_for")
    for why, names in errors.items():
        yield _problem(names, STYLES[ModelState.FAILED], why, remedy_for_error(why))
    for why, names in waits.items():
        yield _problem(names, STYLES[ModelState.UNSCHEDULED], why, MAKE_ROOM)


def _ejected(status: ClusterStatus) -> Iterator[Text]:
    for model in status.models:
        nodes = {replica.id: replica.node_ip for replica in model.replicas}
        for replica, why in model.ejected.items():
            node = nodes.get(replica)
            where = f"replica {replica} on {node}" if node else f"replica {replica}"
            rest = f": the router avoids {where} until it answers again: {why}"
            yield Text(model.name, STYLES[ModelState.UNAVAILABLE]).append(rest, "default")


def _by_reason(status: ClusterStatus, field: str) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for model in status.models:
        if why := getattr(model, field):
            names.setdefault(why, []).append(model.name)
    return names


def _problem(names: list[str], style: str, why: str, remedy: str) -> Text:
    return Text(", ".join(names), style).append(f": {why.rstrip('.')}; {remedy}", "default")
