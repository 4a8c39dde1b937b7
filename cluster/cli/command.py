"""What all commands of `etr` share: how errors end them, where they print, and how they load cluster.yaml."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer
from rich.console import Console

from cluster.config.cluster_config import ClusterConfig, load_config
from cluster.config.unused_settings import unused_settings
from cluster.errors import ClusterError
from experts.errors import ExpertsError

P = ParamSpec("P")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False, soft_wrap=True)

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CLUSTER.YAML", help="The file that describes the cluster.")
]
DEFAULT_CONFIG = Path("cluster.yaml")


def command_of(app: typer.Typer) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """A decorator that registers a command of `app`.

    A ClusterError or ExpertsError ends the command with one line per problem and exit code 1.
    """

    def command(run: Callable[P, None]) -> Callable[P, None]:
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

        return app.command(run.__name__.strip("_").replace("_", "-"))(wrapped)

    return command


def load_with_warnings(path: Path, *, models_required: bool = True) -> ClusterConfig:
    """`load_config`, with a warning for each setting that has no effect at present. Raises ConfigError."""
    config = load_config(path, models_required=models_required)
    for problem in unused_settings(config):
        warn(f"{path}: {problem}")
    return config


def info(text: str) -> None:
    """Print a line on standard output, unwrapped."""
    out.print(text, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a line on standard error, for commands whose standard output is data."""
    err.print(text, markup=False)


def warn(text: str) -> None:
    note(f"warning: {text}")
