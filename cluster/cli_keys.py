"""`etr keys`: who may ask the cluster. The file changes at once, the cluster with the next `etr apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cluster.cli_command import command_of, err, out
from cluster.keys import create_key, read_keys, revoke_key

File = Annotated[Path, typer.Option("--file", help="Where the digests are kept: http.keys_file.")]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="The key's name, as logs and limits have it.")]
Experts = Annotated[
    list[str] | None,
    typer.Option("--expert", help="May be handed to; again for more.", show_default="every expert"),
]
Limit = Annotated[int | None, typer.Option(min=1, help="In each router replica.", show_default="no limit")]
DEFAULT_FILE = Path("keys.yaml")

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")
command = command_of(app)


@command
def create(
    name: KeyName,
    file: File = DEFAULT_FILE,
    expert: Experts = None,
    requests_per_minute: Limit = None,
    max_concurrent: Limit = None,
) -> None:
    """Make a key and print it, this once: the file gets its digest alone."""
    limits = {
        "experts": expert or None,
        "requests_per_minute": requests_per_minute,
        "max_concurrent": max_concurrent,
    }
    key = create_key(file, name, limits)
    # Alone on standard output, so that it can be piped to where it is to be kept.
    typer.echo(key)
    _tell(f"'{name}' is in {file}; keep the key now, nobody can show it again")
    _tell(f"where http.keys_file is {file}, `etr apply` lets it in")


@command
def list_(file: File = DEFAULT_FILE) -> None:
    """Show every key's name, what it permits, and how its digest begins."""
    table = Table("key", "experts", "requests/min", "concurrent", "sha256")
    for key in read_keys(file):
        experts = "every" if key.experts is None else ", ".join(key.experts) or "none"
        limits = (
            "-" if limit is None else str(limit) for limit in (key.requests_per_minute, key.max_concurrent)
        )
        table.add_row(key.name, experts, *limits, key.sha256[:8])
    out.print(table)


@command
def revoke(name: KeyName, file: File = DEFAULT_FILE) -> None:
    """Take a key out of the file."""
    revoke_key(file, name)
    _tell(f"'{name}' is no longer in {file}; until `etr apply` the cluster still knows it")
    if not read_keys(file):
        _tell("it was the last: make another, or take http.keys_file out to let everybody ask")


def _tell(text: str) -> None:
    err.print(text, markup=False)
