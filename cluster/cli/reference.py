"""The reference of the `etr` command, as Markdown.

`python -m cluster.cli.reference OUTDIR` writes the generated pages of the documentation.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from cluster.cli.main import app
from cluster.config.reference import config_reference
from router.api.fields.reference import fields_reference
from router.api.tasks.reference import tasks_reference
from router.dialects.messages.reference import messages_reference
from router.dialects.responses.reference import responses_reference

_INTRODUCTION = """\
# etr

Generated from the code. `--help` prints the same for one command. A command that fails prints one line for
each problem, with the file, the field, what is wrong and what to do, and exits with code 1. A wrong command
line exits with code 2.
"""
_VALUES = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}


def cli_reference() -> str:
    """Markdown: a section for each command, with its arguments and options."""
    sections = [_section(f"etr {name}", callback) for name, callback in _commands(app)]
    return "\n".join([_INTRODUCTION, *sections])


def write_reference(folder: Path) -> None:
    """Write `cluster-yaml.md`, `cli.md` and `api-fields.md` into `folder`, which is created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = "\n".join([fields_reference(), responses_reference(), messages_reference(), tasks_reference()])
    (folder / "api-fields.md").write_text(fields, encoding="utf-8")
    (folder / "cluster-yaml.md").write_text(config_reference(), encoding="utf-8")
    (folder / "cli.md").write_text(cli_reference(), encoding="utf-8")


def _commands(group: typer.Typer) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The commands of a group, by the words that call them."""
    for command in group.registered_commands:
        assert command.callback is not None
        yield command.name or command.callback.__name__, command.callback
    for member in group.registered_groups:
        assert member.typer_instance is not None
        for name, callback in _commands(member.typer_instance):
            yield f"{member.name} {name}" if isinstance(member.name, str) else name, callback


def _section(name: str, callback: Callable[..., Any]) -> str:
    hints = get_type_hints(callback, include_extras=True)
    params = inspect.signature(callback).parameters.values()
    described = [(param, *get_args(hints[param.name])[:2]) for param in params]
    described.sort(key=lambda entry: isinstance(entry[2], OptionInfo))  # arguments first
    usage = [_in_usage(param, info) for param, _, info in described if isinstance(info, ArgumentInfo)]
    options = ["[OPTIONS]"] if len(described) > len(usage) else []
    lines = [f"## {name}", "", " ".join(str(callback.__doc__).split()), ""]
    lines += [f"    {' '.join([name, *options, *usage])}", ""]
    if described:
        lines += ["| argument or option | default | meaning |", "|---|---|---|"]
        lines += [*(_row(*entry) for entry in described), ""]
    return "\n".join(lines)


def _in_usage(param: inspect.Parameter, info: ArgumentInfo) -> str:
    return str(info.metavar) if param.default is param.empty else f"[{info.metavar}]"


def _row(param: inspect.Parameter, value_type: Any, info: ArgumentInfo | OptionInfo) -> str:
    if isinstance(info, ArgumentInfo):
        names = str(info.metavar)
    else:
        names = ", ".join(_spellings(info) or [f"--{param.name.replace('_', '-')}"])
        if value_type is not bool:
            names += f" {info.metavar or _value_name(value_type)}"
    return f"| `{names}` | {_default(param.default, info)} | {info.help} |"


def _spellings(info: OptionInfo) -> list[str]:
    """The names given to `typer.Option`. In `Annotated`, the first is passed where the default would be."""
    return [name for name in (info.default, *(info.param_decls or ())) if isinstance(name, str)]


def _value_name(value_type: Any) -> str:
    """What `--help` shows for a value of the type, ignoring `None` and lists."""
    while get_origin(value_type) is not None:
        value_type = next(choice for choice in get_args(value_type) if choice is not NoneType)
    return _VALUES[value_type]


def _default(default: Any, info: ArgumentInfo | OptionInfo) -> str:
    if default is inspect.Parameter.empty:
        return "required"
    if isinstance(info.show_default, str):
        return info.show_default
    return f"`{default}`" if default not in (None, False) else ""


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
