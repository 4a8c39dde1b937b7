"""`etr plan`, `etr apply`, `etr scale`: change a running cluster."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cluster.addresses import is_loopback
from cluster.cli import options as option
from cluster.cli import print_progress
from cluster.cli.command import (
    DEFAULT_CONFIG,
    ConfigPath,
    command_of,
    err,
    info,
    load_with_warnings,
    out,
    warn,
)
from cluster.config.cluster_config import ROUTER, ClusterConfig, load_config
from cluster.config.config_editor import set_values
from cluster.errors import HeadNotFound
from cluster.local.head import find_head, state_root
from cluster.serve.client import ServeClient
from cluster.serve.connect import connect
from router.table import META

app = typer.Typer()
command = command_of(app)


@command
def plan(
    config: ConfigPath = DEFAULT_CONFIG,
    address: option.Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show what `apply` would start, restart, change in place and stop. Changes nothing."""
    from cluster.cli import print_plan
    from cluster.serve.deploy_config import build_serve_config
    from cluster.serve.plan import compare, make_plan
    from cluster.serve.serve_details import ServeDetails

    loaded = load_with_warnings(config)
    try:
        with connect(loaded.name, address) as client:
            planned = make_plan(loaded, client)
    except HeadNotFound:  # everything would be new
        planned = compare(build_serve_config(loaded), ServeDetails(applications={}))
    if as_json:
        typer.echo(json.dumps([asdict(change) for change in planned.changes]))
    else:
        print_plan.plan(out, planned)


@command
def apply(
    config: ConfigPath = DEFAULT_CONFIG,
    address: option.Address = None,
    rayservice: option.RayService = None,
    allow_new_cluster: option.AllowNewCluster = False,
    take_over: option.TakeOver = False,
) -> None:
    """Change a running cluster into what the file says now."""
    if rayservice and address:
        raise typer.BadParameter("--address has no effect with --rayservice; remove one")
    if rayservice:
        _apply_rayservice(config, rayservice, allow_new_cluster=allow_new_cluster, take_over=take_over)
        return
    if allow_new_cluster or take_over:
        raise typer.BadParameter("--allow-new-cluster and --take-over need --rayservice; add it")
    loaded = load_with_warnings(config)
    with connect(loaded.name, address) as client:
        url = converge(loaded, client)
    print_progress.ready(out, url, loaded.name, has_page=loaded.http.page)


@command
def scale(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"An expert, a pool, '{META}' or '{ROUTER}'.")],
    low: Annotated[int | None, typer.Option("--min", min=0, help="Minimum number of replicas.")] = None,
    high: Annotated[int | None, typer.Option("--max", min=1, help="Maximum number of replicas.")] = None,
    config: option.ConfigOption = DEFAULT_CONFIG,
    address: option.Address = None,
    no_apply: option.NoApply = False,
) -> None:
    """Change how many replicas a model may have, in the file and in the running cluster."""
    limits = {"min_replicas": low, "max_replicas": high}
    chosen = {key: limit for key, limit in limits.items() if limit is not None}
    if not chosen:
        raise typer.BadParameter("give --min, --max or both")
    keys = _block_of(load_config(config), name)
    set_values(config, {(*keys, "autoscaling", key): limit for key, limit in chosen.items()})
    info(f"{name}: {', '.join(f'{key} {limit}' for key, limit in chosen.items())} in {config}")
    apply_edit(config, address, no_apply=no_apply)


def apply_edit(config: Path, address: str | None, *, no_apply: bool) -> str | None:
    """Apply a file that a command has edited, if its cluster is known to run: then returns its URL."""
    loaded = load_with_warnings(config)
    if no_apply or not (address or find_head(state_root() / loaded.name)):
        info(f"put it into effect with: etr apply {config}")
        return None
    with connect(loaded.name, address) as client:
        url = converge(loaded, client)
    info(f"the change is in effect at {url}/v1")
    return url


def converge(config: ClusterConfig, client: ServeClient) -> str:
    """Apply `config` and show progress. Returns the URL of the cluster."""
    from cluster.serve.apply import apply as converge

    http = config.http
    if not (is_loopback(http.host) or http.keys_file or http.keys_env):
        warn(
            f"http.host {http.host}: without API keys, every client that reaches port {http.port} may send "
            "requests; set http.keys_file (`etr keys create` writes it)"
        )
    with err.status("changing the cluster") as spinner:
        return converge(config, client, print_progress.progress(err, spinner))


def _block_of(config: ClusterConfig, name: str) -> tuple[str, ...]:
    """The keys of the block in the file that scales `name`."""
    if name in config.adapter_experts:
        pool = config.adapter_experts[name].adapter.pool
        raise typer.BadParameter(f"expert '{name}' uses the replicas of its pool; use: etr scale {pool}")
    blocks: dict[str, tuple[str, ...]] = {fixed: (fixed,) for fixed in (META, ROUTER)}
    blocks |= {
        expert: ("experts", expert) for expert in config.experts if expert in config.replicated_experts
    }
    blocks |= {pool: ("pools", pool) for pool in config.pools}
    blocks |= {name: ("embeddings", name) for name in config.embeddings}
    if name not in blocks:
        raise typer.BadParameter(f"there is no '{name}'; use one of: {', '.join(blocks)}")
    return blocks[name]


def _apply_rayservice(config: Path, rayservice: str, *, allow_new_cluster: bool, take_over: bool) -> None:
    namespace, _, name = rayservice.partition("/")
    if not namespace or not name:
        raise typer.BadParameter(
            f"--rayservice: '{rayservice}' is not of the form NAMESPACE/NAME; correct it"
        )
    from cluster.kuberay.apply import patch_rayservice
    from cluster.kuberay.render import build_rayservice

    manifest = build_rayservice(load_with_warnings(config, models_required=False))
    with err.status("changing the RayService") as spinner:
        changes = patch_rayservice(
            namespace,
            name,
            manifest,
            print_progress.progress(err, spinner),
            allow_new_cluster=allow_new_cluster,
            take_over=take_over,
        )
    info(f"{rayservice} now matches {config}; changed: {', '.join(changes.in_place) or 'nothing'}")
