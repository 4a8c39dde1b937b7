"""The options that several commands share, with their help texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.learning import options as learning

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
    learning.MidAnswer,
    typer.Option(
        "--mid-answer",
        metavar="CHOICE",
        help="What is wanted in the middle of an answer that the meta has begun itself on an expert's "
        "subject. none: no hand-over. late: a hand-over there too. ignore: nothing is learned there.",
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
ExpertName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the expert.")]
Model = Annotated[Path | None, typer.Option(help="Folder of its checkpoint.")]
Hub = Annotated[str | None, typer.Option(help="Its id on the Hugging Face hub, instead of --model.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of the model on the hub.")]
Adapter = Annotated[Path | None, typer.Option(help="Folder of its LoRA adapter, instead of --model.")]
Pool = Annotated[str | None, typer.Option(help="The pool whose model the adapter is for.")]
ConfigOption = Annotated[Path, typer.Option(help="The file that describes the cluster.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="File for its expert token.", show_default="tokens/NAME.safetensors beside the config"),
]
NumGpus = Annotated[float | None, typer.Option(min=0, help="GPUs that one replica reserves.")]
NumCpus = Annotated[float | None, typer.Option(min=0, help="CPUs that one replica reserves.")]
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
ReportFolder = Annotated[Path, typer.Option("--out", help="Folder for the JSON, Markdown and pictures.")]
RoutesOnly = Annotated[
    bool, typer.Option("--routes-only", help="Judge only the routing; send no questions to a cluster.")
]
