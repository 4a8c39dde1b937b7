"""`etr keys`: API keys. The file changes at once, the running cluster with the next `etr apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cluster.cli.command import command_of, note, out
from cluster.config.api_key_file import create_key, read_keys, revoke_key

File = Annotated[Path, typer.Option("--file", help="File with the digests of the keys, http.keys_file.")]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key, which logs show.")]
Experts = Annotated[
    list[str] | None,
    typer.Option("--expert", help="An expert that it may use; repeat for more.", show_default="every expert"),
]
RequestsPerMinute = Annotated[
    int | None,
    typer.Option(
        min=1, help="Maximum number of requests per minute, in each router replica.", show_default="no limit"
    ),
]
MaxConcurrent = Annotated[
    int | None,
    typer.Option(
        min=1, help="Maximum number of open requests, in each router replica.", show_default="no limit"
    ),
]
DEFAULT_FILE = Path("keys.yaml")

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")
command = command_of(app)


@command
def create(
    name: KeyName,
    file: File = DEFAULT_FILE,
    expert: Experts = None,
    requests_per_minute: RequestsPerMinute = None,
    max_concurrent: MaxConcurrent = None,
) -> None:
    """Make a key and print it. The file gets only its digest, so it cannot be shown again."""
    limits = {
        "experts": expert or None,
        "requests_per_minute": requests_per_minute,
        "max_concurrent": max_concurrent,
    }
    key = create_key(file, name, limits)
    # Only the key goes to standard output, so that it can be piped to a secret store.
    typer.echo(key)
    note(f"'{name}' is in {file}; store the key now, it cannot be shown again")
    note(f"if http.keys_file is {file}, the key is valid after `etr apply`")


@command
def list_(file: File = DEFAULT_FILE) -> None:
    """Show the name, limits and start of the digest of every key."""
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
    """Remove a key from the file."""
    revoke_key(file, name)
    note(f"'{name}' is removed from {file}; the running cluster accepts it until `etr apply`")
    if not read_keys(file):
        note("it was the last key: make another, or remove http.keys_file to let every client send requests")
