"""`etr plan`, `etr apply`, `etr scale`: change a cluster that serves."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cluster import cli_options as option
from cluster import show
from cluster.cli_command import DEFAULT_CONFIG, ConfigPath, command_of, err, out, say, warn
from cluster.config import ROUTER, ClusterConfig, load_config
from cluster.errors import HeadNotFound
from cluster.hosts import is_loopback
from cluster.local import find_head, state_root
from cluster.serve_client import ServeClient
from cluster.target import connect
from cluster.yaml_edit import set_values
from router.table import META

app = typer.Typer()
command = command_of(app)


@command
def plan(
    config: ConfigPath = DEFAULT_CONFIG,
    address: option.Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what `apply` would start, restart, change in place and stop; nothing is touched."""
    from cluster import show_plan
    from cluster.plan import compare, make_plan
    from cluster.serve_config import build_serve_config

    loaded = load_config(config)
    try:
        with connect(loaded.name, address) as client:
            planned = make_plan(loaded, client)
    except HeadNotFound:  # then all of it would be new
        planned = compare(build_serve_config(loaded), {"applications": {}})
    if as_json:
        typer.echo(json.dumps([asdict(change) for change in planned.changes]))
    else:
        show_plan.plan(out, planned)


@command
def apply(
    config: ConfigPath = DEFAULT_CONFIG,
    address: option.Address = None,
    rayservice: option.RayService = None,
    allow_new_cluster: option.AllowNewCluster = False,
    take_over: option.TakeOver = False,
) -> None:
    """Make a running cluster what the file says now."""
    if rayservice and address:
        raise typer.BadParameter("--address has no effect with --rayservice; remove one")
    if rayservice:
        _apply_rayservice(config, rayservice, allow_new_cluster=allow_new_cluster, take_over=take_over)
        return
    if allow_new_cluster or take_over:
        raise typer.BadParameter("--allow-new-cluster and --take-over need --rayservice; add it")
    loaded = load_config(config)
    with connect(loaded.name, address) as client:
        url = converge(loaded, client)
    show.ready(out, url, loaded.name)


@command
def scale(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"An expert, a pool, '{META}' or '{ROUTER}'.")],
    low: Annotated[int | None, typer.Option("--min", min=0, help="Replicas at the least.")] = None,
    high: Annotated[int | None, typer.Option("--max", min=1, help="Replicas at the most.")] = None,
    config: option.ConfigOption = DEFAULT_CONFIG,
    address: option.Address = None,
    no_apply: option.NoApply = False,
) -> None:
    """Change how many replicas of one model there may be, in the file and in the running cluster."""
    limits = {"min_replicas": low, "max_replicas": high}
    chosen = {key: limit for key, limit in limits.items() if limit is not None}
    if not chosen:
        raise typer.BadParameter("give --min, --max or both")
    where = _place(load_config(config), name)
    set_values(config, {(*where, "autoscaling", key): limit for key, limit in chosen.items()})
    say(f"{name}: {', '.join(f'{key} {limit}' for key, limit in chosen.items())} in {config}")
    serve_change(config, address, no_apply=no_apply)


def _place(config: ClusterConfig, name: str) -> tuple[str, ...]:
    """Where the block stands in the file that says how many there are."""
    if name in config.adapter_experts:
        pool = config.adapter_experts[name].adapter.pool
        raise typer.BadParameter(f"'{name}' has the replicas of its pool; use: etr scale {pool}")
    places: dict[str, tuple[str, ...]] = {fixed: (fixed,) for fixed in (META, ROUTER)}
    places |= {
        expert: ("experts", expert) for expert in config.experts if expert in config.replicated_experts
    }
    places |= {pool: ("pools", pool) for pool in config.pools}
    if name not in places:
        raise typer.BadParameter(f"there is no '{name}'; use one of: {', '.join(places)}")
    return places[name]


def serve_change(config: Path, address: str | None, *, no_apply: bool) -> None:
    """Apply a file that a command has changed, if its cluster is known to run."""
    loaded = load_config(config)
    if no_apply or not (address or find_head(state_root() / loaded.name)):
        say(f"serve it with: etr apply {config}")
        return
    with connect(loaded.name, address) as client:
        url = converge(loaded, client)
    say(f"{loaded.name} serves it at {url}/v1")


def converge(config: ClusterConfig, client: ServeClient) -> str:
    """`apply`, with its progress on the terminal."""
    from cluster.apply import apply as converge

    http = config.http
    if not (is_loopback(http.host) or http.keys_file or http.keys_env):
        warn(
            f"http.host {http.host}: without keys everybody who reaches port {http.port} may ask; set "
            "http.keys_file (`etr keys create` writes it)"
        )
    with err.status("changing the cluster") as spinner:
        return converge(config, client, show.progress(err, spinner))


def _apply_rayservice(config: Path, rayservice: str, *, allow_new_cluster: bool, take_over: bool) -> None:
    namespace, _, name = rayservice.partition("/")
    if not namespace or not name:
        raise typer.BadParameter("--rayservice is NAMESPACE/NAME")
    from cluster.k8s import build_rayservice
    from cluster.rayservice import patch_rayservice

    manifest = build_rayservice(load_config(config, models_required=False))
    with err.status("changing the RayService") as spinner:
        changes = patch_rayservice(
            namespace,
            name,
            manifest,
            show.progress(err, spinner),
            allow_new_cluster=allow_new_cluster,
            take_over=take_over,
        )
    say(f"{rayservice} is what {config} says; changed: {', '.join(changes.in_place) or 'nothing'}")
