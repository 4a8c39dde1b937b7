"""`etr decisions`: what the decision logs of routers say, and feedback as a query set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cluster.cli.command import command_of, info, out, warn
from cluster.decisions.log_reader import DecisionRecords, read_decisions
from cluster.decisions.query_set import Messages, export_queries
from cluster.decisions.summary import (
    DecisionSummary,
    ShadowSummary,
    TargetSummary,
    mean,
    summarize,
)
from cluster.errors import ConfigError
from experts.files import write_atomic
from router.table import META

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE…", help="Files of decision logs, or folders that hold them.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="File for the queries, in chat JSONL.")]
Prompts = Annotated[
    Path | None,
    typer.Option(help="A query set with prompts that may have been asked. A log with text needs none."),
]

app = typer.Typer(no_args_is_help=True, help="Read decision logs.")
command = command_of(app)


@command
def summary(files: Files) -> None:
    """Show what the meta decided, expert by expert, and how often shadows would have taken over."""
    found = summarize(_read(files))
    out.print(_targets(found))
    if found.shadows:
        out.print(_shadows(found))


@command
def export(files: Files, output: Output, prompts: Prompts = None) -> None:
    """Write the prompts that clients gave feedback on, with the right expert, for `etr learn`."""
    found = export_queries(_read(files), _prompts(prompts))
    if not found.rows:
        raise ConfigError(
            [
                f"no feedback with a prompt: {found.num_without_prompt} without text, {found.num_unjoined} "
                "without a decision; give --prompts, or set router.decision_log.text for the answers to come"
            ]
        )
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows)
    try:
        write_atomic(output, lines.encode("utf-8", "replace"))
    except OSError as error:
        raise ConfigError([f"{output}: cannot be written: {error.strerror}; correct the path"]) from error
    info(f"{len(found.rows)} queries are in {output}")
    if found.num_without_prompt:
        warn(f"{found.num_without_prompt} answers with feedback have no prompt; give more by --prompts")
    if found.num_unjoined:
        warn(f"{found.num_unjoined} answers with feedback are in none of the files; name all routers' files")


def _read(files: list[Path]) -> DecisionRecords:
    records = read_decisions(files)
    if records.num_broken:
        warn(f"{records.num_broken} lines could not be read and are left out")
    return records


def _prompts(path: Path | None) -> list[Messages]:
    if path is None:
        return []
    from experts.learn.formats import read_queries

    return [[dict(message) for message in query.messages] for query in read_queries(path, warn=warn)]


def _targets(found: DecisionSummary) -> Table:
    table = Table("decided for", *_NUMBERS, title=f"{found.num_decisions} decisions")
    for column in table.columns[1:]:
        column.justify = "right"
    names = sorted(found.targets, key=lambda name: (name == META, -found.targets[name].num_decisions, name))
    for name in names:
        table.add_row(*_target_row(name, found.targets[name], found.num_decisions))
    return table


_NUMBERS = ("count", "share", "probability", "to word", "to expert", "redecided", "right", "wrong", "missed")


def _target_row(name: str, target: TargetSummary, num_decisions: int) -> list[str]:
    return [
        name,
        str(target.num_decisions),
        _share(target.num_decisions, num_decisions),
        _number(mean(target.probabilities)),
        _number(mean(target.word_margins)),
        _number(mean(target.expert_margins)),
        str(target.num_redecided),
        str(target.feedback["right"]),
        str(target.feedback["wrong"]),
        str(target.num_missed),
    ]


def _shadows(found: DecisionSummary) -> Table:
    table = Table("shadow", "answers", "would take over", "share", "probability", "over")
    for name, shadow in sorted(found.shadows.items()):
        table.add_row(*_shadow_row(name, shadow))
    return table


def _shadow_row(name: str, shadow: ShadowSummary) -> list[str]:
    over = ", ".join(f"{model} {num}" for model, num in shadow.over.most_common())
    share = _share(shadow.num_wins, shadow.num_answers)
    numbers = str(shadow.num_answers), str(shadow.num_wins), share
    return [name, *numbers, _number(mean(shadow.probabilities)), over]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
