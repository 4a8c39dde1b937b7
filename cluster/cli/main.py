"""The `etr` command. Ray and torch are imported only by the subcommands that need them."""

from __future__ import annotations

import json

import typer

from cluster.cli import change, chat, decisions, experts, keys, learn, print_progress, queries, render, status
from cluster.cli import options as option
from cluster.cli.change import converge
from cluster.cli.command import DEFAULT_CONFIG, ConfigPath, command_of, err, info, load_with_warnings, out
from cluster.config.cluster_config import ClusterConfig
from cluster.config.reference import config_schema
from cluster.local.head import Head, find_head, start_head, state_root, stop_head
from cluster.local.ports import require_free_port
from cluster.serve.client import ServeClient
from cluster.serve.connect import auth_token, connect_to, num_logical_cpus, only_name

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(change.app)
app.add_typer(chat.app)
app.add_typer(learn.app)
app.add_typer(status.app)
app.add_typer(experts.app, name="experts")
app.add_typer(queries.app, name="queries")
app.add_typer(decisions.app, name="decisions")
app.add_typer(keys.app, name="keys")
app.add_typer(render.app, name="render")

command = command_of(app)


@command
def up(config: ConfigPath = DEFAULT_CONFIG, address: option.Address = None) -> None:
    """Start the cluster: a Ray head on this machine, unless --address is given, all models and the router."""
    loaded = load_with_warnings(config)
    with ServeClient(address, auth_token()) if address else connect_to(_ensure_head(loaded)) as client:
        url = converge(loaded, client)
    print_progress.ready(out, url, loaded.name, has_page=loaded.http.page)


@command
def down(name: option.ClusterName = None) -> None:
    """Stop the Ray head that `up` started on this machine, and everything that runs on it."""
    name = name or only_name()
    if stop_head(state_root() / name):
        info(f"cluster '{name}' is stopped")
    else:
        info(f"cluster '{name}' was not started on this machine; nothing to stop")


@command
def schema() -> None:
    """Print the JSON Schema of cluster.yaml, with which editors complete and check it."""
    typer.echo(json.dumps(config_schema(), indent=2, ensure_ascii=False))


def _ensure_head(config: ClusterConfig) -> Head:
    state_dir = state_root() / config.name
    head = find_head(state_dir)
    if head:
        return head
    from cluster.serve.deploy_config import build_serve_config

    build_serve_config(config)  # reports errors in the file before anything is started
    require_free_port(config.http.host, config.http.port)
    with err.status("starting Ray on this machine"):
        return start_head(state_dir, num_cpus=num_logical_cpus(config))
