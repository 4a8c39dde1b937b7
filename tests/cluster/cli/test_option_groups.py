"""Options that a command takes as one value."""

from __future__ import annotations

import inspect
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from cluster.cli.option_groups import grouped

Width = Annotated[int, typer.Option(min=1)]


def size(width: Width, height: int = 2) -> tuple[int, int]:
    return width, height


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @grouped(size=size)
    def draw(*, name: str = "box", size: tuple[int, int], twice: bool = False) -> None:
        typer.echo(f"{name} {size} {twice}")

    return app


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["--width", "3"], "box (3, 2) False\n"),
        (["--width", "3", "--height", "4", "--name", "lid", "--twice"], "lid (3, 4) True\n"),
    ],
)
def test_a_command_gets_what_the_group_makes_of_its_options(app, arguments, printed):
    assert CliRunner().invoke(app, arguments).stdout == printed


def test_the_options_of_a_group_are_checked_and_required_as_its_own_are(app):
    assert CliRunner().invoke(app, ["--width", "0"]).exit_code == 2
    assert CliRunner().invoke(app, []).exit_code == 2


def test_the_options_stand_in_the_place_of_the_group(app):
    (command,) = app.registered_commands
    assert command.callback is not None
    assert list(inspect.signature(command.callback).parameters) == ["name", "width", "height", "twice"]
