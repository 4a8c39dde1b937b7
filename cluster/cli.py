"""`etr`: from a cluster.yaml to answers. Ray and torch are imported only by the commands that need them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, ParamSpec

import typer
from rich.console import Console

from cluster import show
from cluster.ask import AnswerPart, ask
from cluster.config import DEFAULT_HOST, DEFAULT_PORT, ClusterConfig, load_config
from cluster.errors import ClusterError
from cluster.hosts import serving_url
from cluster.local import Head, find_head, start_head, state_root, stop_head
from cluster.ports import require_free_port
from cluster.serve_client import ServeClient
from cluster.target import auth_token, connect, connect_to, num_logical_cpus, only_name, running_names
from experts.errors import ExpertsError

P = ParamSpec("P")

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False, soft_wrap=True)

ConfigPath = Annotated[Path, typer.Argument(metavar="CLUSTER.YAML", help="The cluster's one file.")]
Address = Annotated[
    str | None, typer.Option(help="Dashboard URL of a running Ray cluster, http://host:8265.")
]
Name = Annotated[str | None, typer.Option(help="The cluster's name, if several run here.")]
DEFAULT_CONFIG = Path("cluster.yaml")


def command(run: Callable[P, None]) -> Callable[P, None]:
    """Register a command that tells our errors in one line each, and exits 1."""

    @functools.wraps(run)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            run(*args, **kwargs)
        except (ClusterError, ExpertsError) as error:
            for line in str(error).splitlines():
                err.print(f"error: {line}", markup=False)
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            raise typer.Exit(130) from None

    return app.command(run.__name__.strip("_"))(wrapped)


@command
def up(config: ConfigPath = DEFAULT_CONFIG, address: Address = None) -> None:
    """Start the cluster: a Ray head here unless an address is given, then every model and the router."""
    loaded = load_config(config)
    with ServeClient(address, auth_token()) if address else connect_to(_ensure_head(loaded)) as client:
        url = _apply(loaded, client)
    show.ready(out, url, loaded.name)


@command
def apply(config: ConfigPath = DEFAULT_CONFIG, address: Address = None) -> None:
    """Make a running cluster what the file says now."""
    loaded = load_config(config)
    with connect(loaded.name, address) as client:
        url = _apply(loaded, client)
    show.ready(out, url, loaded.name)


@command
def status(
    name: Name = None,
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show every application and its replicas."""
    from cluster.status import status as read_status

    with connect(name, address) as client:
        statuses = read_status(client)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in statuses]))
    else:
        show.statuses(out, statuses)


@command
def ask_(
    question: str,
    model: Annotated[str | None, typer.Option(help="The generalist, <name>/meta or <name>/<expert>.")] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Show who wrote which part.")] = False,
    url: Annotated[str | None, typer.Option(help="Where the cluster serves.")] = None,
) -> None:
    """Ask a question and stream the answer."""
    parts: list[AnswerPart] = []
    for part in ask(url or _local_url(), question, model=model, trace=trace):
        parts.append(part)
        out.out(part.text, end="", highlight=False)
    out.out()
    if trace:
        show.trace(out, parts)


@command
def learn(
    config: ConfigPath,
    data: Annotated[Path, typer.Option(help="Chat JSONL: messages, and which expert should answer.")],
) -> None:
    """Learn every expert's token from labelled questions, and write the files that the config names."""
    from cluster.learn import learn_all

    show.scores(out, learn_all(load_config(config, tokens_required=False), data, show.learning(err)))


@command
def down(name: Name = None) -> None:
    """End the Ray head that `up` started here, and all that runs on it; nothing else."""
    name = name or only_name()
    if stop_head(state_root() / name):
        out.print(f"cluster '{name}' is down")
    else:
        out.print(f"cluster '{name}' was not started here: nothing to end")


def _ensure_head(config: ClusterConfig) -> Head:
    state_dir = state_root() / config.name
    head = find_head(state_dir)
    if head:
        return head
    from cluster.serve_config import build_serve_config

    build_serve_config(config)  # what is wrong with the file is said before anything is started
    require_free_port(config.http.host, config.http.port)
    with err.status("starting Ray on this machine"):
        return start_head(state_dir, num_cpus=num_logical_cpus(config))


def _apply(config: ClusterConfig, client: ServeClient) -> str:
    from cluster.apply import apply as converge

    with err.status("starting the models") as spinner:
        return converge(config, client, show.progress(err, spinner))


def _local_url() -> str:
    if not running_names():
        return f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
    with connect(only_name(), None) as client:
        options = client.details().get("http_options") or {}
        host, port = options.get("host", DEFAULT_HOST), options.get("port", DEFAULT_PORT)
        return serving_url(host, port, client.address)
