"""`etr keys`: API keys. The file changes at once, the running cluster with the next `etr apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from cluster.cli import options as option
from cluster.cli.command import command_of, note, out
from cluster.config.api_key_file import create_key, read_keys, revoke_key
from cluster.serve.connect import local_url
from cluster.status.key_usage import fetch_key_usage

File = Annotated[Path, typer.Option("--file", help="File with the digests of the keys, http.keys_file.")]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key, which logs show.")]
Experts = Annotated[
    list[str] | None,
    typer.Option("--expert", help="An expert that it may use; repeat for more.", show_default="every expert"),
]
RequestsPerMinute = Annotated[
    int | None, typer.Option(min=1, help="Maximum number of requests per minute.", show_default="no limit")
]
TokensPerMinute = Annotated[
    int | None, typer.Option(min=1, help="Maximum number of tokens per minute.", show_default="no limit")
]
TokensPerDay = Annotated[
    int | None, typer.Option(min=1, help="Maximum number of tokens per day.", show_default="no limit")
]
MaxConcurrent = Annotated[
    int | None, typer.Option(min=1, help="Maximum number of open requests.", show_default="no limit")
]
Priority = Annotated[
    int,
    typer.Option(
        min=-100,
        max=100,
        help="Keys with a lower number are served first if answers wait.",
        show_default="0",
    ),
]
SeesUsage = Annotated[bool, typer.Option("--sees-usage", help="It may read what all keys have used.")]
DEFAULT_FILE = Path("keys.yaml")

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys, and show what they have used.")
command = command_of(app)


@command
def create(
    name: KeyName,
    file: File = DEFAULT_FILE,
    expert: Experts = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    tokens_per_day: TokensPerDay = None,
    max_concurrent: MaxConcurrent = None,
    priority: Priority = 0,
    sees_usage: SeesUsage = False,
) -> None:
    """Make a key and print it. The file gets only its digest, so it cannot be shown again."""
    limits = {
        "experts": expert or None,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "tokens_per_day": tokens_per_day,
        "max_concurrent": max_concurrent,
        "priority": priority or None,
        "sees_usage": sees_usage or None,
    }
    key = create_key(file, name, limits)
    # Only the key goes to standard output, so that it can be piped to a secret store.
    typer.echo(key)
    note(f"'{name}' is in {file}; store the key now, it cannot be shown again")
    note(f"if http.keys_file is {file}, the key is valid after `etr apply`")


@command
def list_(file: File = DEFAULT_FILE) -> None:
    """Show the name, limits and start of the digest of every key."""
    digest = Column("sha256", no_wrap=True, min_width=8)
    table = Table(
        "key", "experts", "requests/min", "tokens/min", "tokens/day", "concurrent", "priority", digest
    )
    for key in read_keys(file):
        experts = "every" if key.experts is None else ", ".join(key.experts) or "none"
        limits = (
            key.requests_per_minute,
            key.tokens_per_minute,
            key.tokens_per_day,
            key.max_concurrent,
            key.priority,
        )
        table.add_row(key.name, experts, *map(_number, limits), key.sha256[:8])
    out.print(table)


@command
def usage(url: option.Url = None) -> None:
    """Show what each key has used, in the whole cluster: today since midnight UTC, and now."""
    table = Table(
        "key", "requests today", "per min", "tokens today", "per min", "per day", "open", "at most", "sha256"
    )
    for key in fetch_key_usage(url or local_url()):
        table.add_row(
            key.name,
            _number(key.requests_today),
            _number(key.requests_per_minute),
            _number(key.tokens_today),
            _number(key.tokens_per_minute),
            _number(key.tokens_per_day),
            _number(key.num_open),
            _number(key.max_concurrent),
            key.sha256,
        )
    out.print(table)


@command
def revoke(name: KeyName, file: File = DEFAULT_FILE) -> None:
    """Remove a key from the file."""
    revoke_key(file, name)
    note(f"'{name}' is removed from {file}; the running cluster accepts it until `etr apply`")
    if not read_keys(file):
        note("it was the last key: make another, or remove http.keys_file to let every client send requests")


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
