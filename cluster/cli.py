"""`etr`: from a cluster.yaml to answers. Ray and torch are imported only by the commands that need them."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster import cli_change, cli_experts, cli_k8s, cli_keys, cli_learn, cli_status, show
from cluster import cli_options as option
from cluster.ask import AnswerPart, ask
from cluster.cli_change import converge
from cluster.cli_command import DEFAULT_CONFIG, ConfigPath, command_of, err, out
from cluster.config import ClusterConfig, load_config
from cluster.local import Head, find_head, start_head, state_root, stop_head
from cluster.ports import require_free_port
from cluster.serve_client import ServeClient
from cluster.target import auth_token, connect_to, local_url, num_logical_cpus, only_name

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(cli_change.app)
app.add_typer(cli_learn.app)
app.add_typer(cli_status.app)
app.add_typer(cli_experts.app, name="experts")
app.add_typer(cli_keys.app, name="keys")
app.add_typer(cli_k8s.app, name="render")

Name = Annotated[str | None, typer.Option(help="The cluster's name, if several run here.")]


command = command_of(app)


@command
def up(config: ConfigPath = DEFAULT_CONFIG, address: option.Address = None) -> None:
    """Start the cluster: a Ray head here unless an address is given, then every model and the router."""
    loaded = load_config(config)
    with ServeClient(address, auth_token()) if address else connect_to(_ensure_head(loaded)) as client:
        url = converge(loaded, client)
    show.ready(out, url, loaded.name)


@command
def ask_(
    question: str,
    model: Annotated[str | None, typer.Option(help="The generalist, <name>/meta or <name>/<expert>.")] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Show who wrote which part.")] = False,
    url: Annotated[str | None, typer.Option(help="Where the cluster serves.")] = None,
) -> None:
    """Ask a question and stream the answer."""
    parts: list[AnswerPart] = []
    for part in ask(url or local_url(), question, model=model, trace=trace):
        parts.append(part)
        out.out(part.text, end="", highlight=False)
    out.out()
    if trace:
        show.trace(out, parts)


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
