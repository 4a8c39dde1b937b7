"""`etr queries synthesize`: a first query set, written by a model itself.

Torch is imported only when the command runs, because `etr --help` imports this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli import options as option
from cluster.cli.command import DEFAULT_CONFIG, command_of, err, info, warn
from cluster.config.cluster_config import load_config
from cluster.learning.options import BATCH_SIZE, MARGIN

NUM_SHOWN = 5

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the expert, or `meta` for general questions.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="File for the queries, in chat JSONL.")]
Num = Annotated[int, typer.Option(min=1, help="Questions to keep.")]
Seed = Annotated[int, typer.Option(min=0, help="Another seed gives other questions.")]
Temperature = Annotated[
    float, typer.Option(min=0.01, max=10, help="A higher one gives more varied questions, and more nonsense.")
]
Lead = Annotated[
    float,
    typer.Option(
        "--margin",
        min=0,
        max=1000,
        help="Lead, in nats per byte, by which a question must be likelier from the expert than from the "
        "meta, or with the subject than without.",
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Questions written at once.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]

app = typer.Typer(no_args_is_help=True, help="Make query sets to learn from.")
command = command_of(app)


@command
def synthesize(
    name: Name,
    output: Output,
    config: option.ConfigOption = DEFAULT_CONFIG,
    about: option.About = None,
    num: Num = 200,
    seed: Seed = 0,
    temperature: Temperature = 1.0,
    margin: Lead = MARGIN,
    batch_size: BatchSize = BATCH_SIZE,
    force: Force = False,
) -> None:
    """Let a model write questions that an expert is likely to get, for a person to read and correct."""
    from cluster.cli import print_learning
    from cluster.learning.synthesize import synthesize_queries
    from experts.synthesize.questions import Draw

    loaded = load_config(config, tokens_required=False)
    draw = Draw(num, seed, temperature, margin, batch_size)
    with print_learning.stages(err) as progress:
        found = synthesize_queries(
            loaded, name, output, draw, about=about or "", force=force, progress=progress
        )
    if len(found.questions) < num:
        warn(f"only {len(found.questions)} of {num} questions; {draw.max_texts} texts had no more")
    info(found.summary())
    for question in found.questions[:NUM_SHOWN]:
        info(f"  {' '.join(question.split())}")
    info(f"the questions are in {output}; read and correct them before you learn from them")
