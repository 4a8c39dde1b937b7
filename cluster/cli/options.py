"""The options that several commands share, with their help texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cluster.learning import options as learn_options
from cluster.learning.options import ExpertQueries, LearnOptions

# Makes the options of a learning command, given the file with the data.
LearnFrom = Callable[[Path], LearnOptions]

Address = Annotated[
    str | None, typer.Option(help="Dashboard URL of a running Ray cluster: http://host:8265.")
]
ClusterName = Annotated[str | None, typer.Option(help="Name of the cluster, if several run on this machine.")]
NoApply = Annotated[bool, typer.Option("--no-apply", help="Change only the file, not the running cluster.")]
RayService = Annotated[
    str | None,
    typer.Option(metavar="NAMESPACE/NAME", help="Change this RayService instead, through kubectl."),
]
AllowNewCluster = Annotated[
    bool, typer.Option("--allow-new-cluster", help="Allow changes of a RayService that replace all its pods.")
]
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Also change fields of a RayService that others have set.")
]
Data = Annotated[
    Path,
    typer.Option(help="Questions with answers and the expert of each: chat JSONL, Alpaca or ShareGPT."),
]
JudgedAnswers = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Questions with an answer, and whether another answer was better; as for learn.",
    ),
]
OptionalData = Annotated[
    Path | None,
    typer.Option("--data", help="As for `etr learn`. Not needed with --synthesize."),
]
SkipBroken = Annotated[
    bool, typer.Option("--skip-broken", help="Go on without the rows that are broken, and say how many.")
]
Assigned = Annotated[
    Path | None,
    typer.Option(help="File for the labels that queries without one get.", show_default="beside the data"),
]
Margin = Annotated[
    float,
    typer.Option(
        min=0, max=1000, help="Lead, in nats per byte, that a model needs to get an unlabelled query."
    ),
]
StatesFolder = Annotated[
    Path | None,
    typer.Option(
        "--states", help="Folder that caches the meta's hidden states.", show_default=".etr beside the config"
    ),
]
HeldOut = Annotated[
    float,
    typer.Option(min=0, max=0.9, help="Share of the queries kept for judging the tokens; not learned from."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Queries in one forward pass.")]
Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="Compute the hidden states on this Ray cluster."),
]
MidAnswer = Annotated[
    learn_options.MidAnswer,
    typer.Option(
        "--mid-answer",
        metavar="CHOICE",
        help="What is wanted in the middle of an answer that the meta has begun itself on an expert's "
        "subject. none: no hand-over. late: a hand-over there too. ignore: nothing is learned there.",
    ),
]
Negatives = Annotated[
    int,
    typer.Option(
        min=0,
        help="General queries to learn from: if the data has fewer, the meta writes the rest. 0 asks for "
        "none.",
    ),
]
Paraphrase = Annotated[
    int,
    typer.Option(
        min=0,
        max=learn_options.MAX_PARAPHRASES,
        help="Let the meta put every query in so many other wordings, and learn from them too.",
    ),
]
L2 = Annotated[
    float | None,
    typer.Option(
        min=0, max=1e6, help="Strength of the pull of tokens towards the mean row of the meta's head."
    ),
]
FalseTriggerRate = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=0.99,
        help="Choose biases so that at most this share of general queries is handed over.",
    ),
]
Write = Annotated[bool, typer.Option("--write", help="Write the call bias for that rate to the config.")]
Synthesize = Annotated[
    bool,
    typer.Option(
        "--synthesize", help="Let the expert write questions that it is likely to get, as its data."
    ),
]
About = Annotated[
    str | None,
    typer.Option(
        help="The expert's subject in a sentence: the meta then writes the questions, with this as system "
        "message. For an expert that is remote, not in the config yet, or trained on answers alone."
    ),
]
NumQuestions = Annotated[int, typer.Option("--questions", min=1, help="Questions to synthesize.")]
ExpertName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the expert.")]
ConfigOption = Annotated[Path, typer.Option(help="The file that describes the cluster.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="File for its expert token.", show_default="tokens/NAME.safetensors beside the config"),
]
Tolerance = Annotated[
    float, typer.Option(min=0, max=1, help="Accuracy that each of the other experts may lose.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Learn and judge the token, but write nothing.")]
Train = Annotated[
    Path | None,
    typer.Option(help="The data that the tokens were learned from, for baselines that learn too."),
]
Url = Annotated[
    str | None,
    typer.Option(help="URL of the running cluster.", show_default="the cluster on this machine"),
]
Methods = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,NAME", help="Methods to compare the tokens with.", show_default="all that can run"
    ),
]
LearningReport = Annotated[
    Path | None,
    typer.Option("--report", help="File for how queries are routed before and after; the page shows it."),
]
ReportFolder = Annotated[Path, typer.Option("--out", help="Folder for the JSON, Markdown and pictures.")]
RoutesOnly = Annotated[
    bool, typer.Option("--routes-only", help="Judge only the routing; send no questions to a cluster.")
]


def learning(
    assigned: Assigned = None,
    margin: Margin = learn_options.MARGIN,
    states: StatesFolder = None,
    held_out: HeldOut = learn_options.HELD_OUT_SHARE,
    batch_size: BatchSize = learn_options.BATCH_SIZE,
    ray: Ray = None,
    skip_broken: SkipBroken = False,
    mid_answer: MidAnswer = learn_options.MID_ANSWER,
    negatives: Negatives = learn_options.NEGATIVES,
    paraphrase: Paraphrase = 0,
) -> LearnFrom:
    """The group of options that `etr learn` and `etr experts add` share: all but the data."""
    return partial(
        LearnOptions,
        assigned=assigned,
        margin=margin,
        states=states,
        held_out_share=held_out,
        batch_size=batch_size,
        ray_address=ray,
        skip_broken=skip_broken,
        mid_answer=mid_answer,
        negatives=negatives,
        paraphrase=paraphrase,
    )


def expert_queries(
    data: OptionalData = None,
    synthesize: Synthesize = False,
    about: About = None,
    questions: NumQuestions = learn_options.NUM_QUESTIONS,
) -> ExpertQueries:
    """The group of options that say where the queries of a new expert are from."""
    if data is None and not synthesize:
        raise typer.BadParameter("give --data, or --synthesize to let a model write the questions")
    if about is not None and not synthesize:
        raise typer.BadParameter("--about has no effect without --synthesize; add it")
    return ExpertQueries(data, synthesize, about or "", questions)
