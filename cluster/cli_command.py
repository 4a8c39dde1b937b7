"""What every command of `etr` has in common: how it fails, where it prints, how it names the cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer
from rich.console import Console

from cluster.errors import ClusterError
from experts.errors import ExpertsError

P = ParamSpec("P")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False, soft_wrap=True)

ConfigPath = Annotated[Path, typer.Argument(metavar="CLUSTER.YAML", help="The cluster's one file.")]
DEFAULT_CONFIG = Path("cluster.yaml")


def command_of(app: typer.Typer) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Register commands of `app` that tell our errors in one line each, and exit 1."""

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

        return app.command(run.__name__.strip("_"))(wrapped)

    return command


def say(text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    err.print(f"warning: {text}", markup=False)
