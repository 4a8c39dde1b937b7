"""`etr status`: every model's state and load, once or again and again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer
from rich.live import Live

from cluster import cli_options as option
from cluster.cli_command import command_of, out
from cluster.model_status import ClusterStatus
from cluster.show_status import cluster_status
from cluster.target import connect
from cluster.watch import LOOK_GAP_S, Watch

WATCH_PERIOD_S = 2.0

app = typer.Typer()
command = command_of(app)


@command
def status(
    name: Annotated[str | None, typer.Option(help="The cluster's name, if several run here.")] = None,
    address: option.Address = None,
    url: Annotated[
        str | None,
        typer.Option(help="Where the router answers.", show_default="where Serve says that it listens"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs: a line of JSON for every look.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until interrupted.")] = False,
) -> None:
    """Show every model: its state, replicas, load, last error, and what it waits for."""
    with connect(name, address) as client:
        looks = _looks(Watch(client, url), forever=watch)
        if as_json:
            for look in looks:
                typer.echo(json.dumps(asdict(look)))
        elif watch:
            with Live(console=out, auto_refresh=False) as live:
                for look in looks:
                    live.update(cluster_status(look), refresh=True)
        else:
            for look in looks:
                out.print(cluster_status(look))


def _looks(watch: Watch, *, forever: bool) -> Iterator[ClusterStatus]:
    """The first one shown is the second one taken: a rate needs two."""
    first = watch.look()
    # Without a router there will be no rate either, so nobody needs to wait.
    if any(model.num_running is not None for model in first.models):
        time.sleep(LOOK_GAP_S)
        first = watch.look()
    yield first
    while forever:
        time.sleep(WATCH_PERIOD_S)
        yield watch.look()
