"""`etr status`: the state and load of every model, once or repeatedly."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer
from rich.live import Live

from cluster.cli import options as option
from cluster.cli.command import command_of, out
from cluster.cli.print_status import cluster_status
from cluster.serve.connect import connect
from cluster.status.collector import MIN_PERIOD_S, StatusCollector
from cluster.status.model_status import ClusterStatus

WATCH_PERIOD_S = 2.0

app = typer.Typer()
command = command_of(app)


@command
def status(
    name: option.ClusterName = None,
    address: option.Address = None,
    url: Annotated[
        str | None,
        typer.Option(help="URL of the router.", show_default="where Ray Serve listens"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one line per update, for programs.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Update until interrupted.")] = False,
) -> None:
    """Show every model: its state, replicas, load, last error, and what it waits for."""
    with connect(name, address) as client:
        statuses = _statuses(StatusCollector(client, url), forever=watch)
        if as_json:
            for found in statuses:
                typer.echo(json.dumps(asdict(found)))
        elif watch:
            with Live(console=out, auto_refresh=False) as live:
                for found in statuses:
                    live.update(cluster_status(found), refresh=True)
        else:
            for found in statuses:
                out.print(cluster_status(found))


def _statuses(collector: StatusCollector, *, forever: bool) -> Iterator[ClusterStatus]:
    """The first status shown is the second one collected, because rates are differences of two."""
    first = collector.collect()
    # Without a router there are no rates to wait for.
    if any(model.num_running is not None for model in first.models):
        time.sleep(MIN_PERIOD_S)
        first = collector.collect()
    yield first
    while forever:
        time.sleep(WATCH_PERIOD_S)
        yield collector.collect()
