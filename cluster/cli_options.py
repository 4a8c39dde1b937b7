"""The options that commands have in common, with what their help says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Address = Annotated[
    str | None, typer.Option(help="Dashboard URL of a running Ray cluster, http://host:8265.")
]
NoApply = Annotated[bool, typer.Option("--no-apply", help="Change the file alone, not the running cluster.")]
RayService = Annotated[
    str | None,
    typer.Option(metavar="NAMESPACE/NAME", help="Change this RayService instead, through kubectl."),
]
AllowNewCluster = Annotated[
    bool, typer.Option("--allow-new-cluster", help="Of a RayService: also what replaces all of its pods.")
]
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Of a RayService: also fields that others have set.")
]
Data = Annotated[
    Path, typer.Option(help="Chat JSONL, Alpaca or ShareGPT: questions, answers, and which expert's.")
]
Assigned = Annotated[
    Path | None,
    typer.Option(help="Where queries without a label go once they have one.", show_default="beside the data"),
]
Margin = Annotated[
    float,
    typer.Option(min=0, max=1000, help="Nats per byte by which a model must lead to be given such a query."),
]
StatesFolder = Annotated[
    Path | None,
    typer.Option("--states", help="Where the meta's states are kept.", show_default=".etr beside the config"),
]
HeldOut = Annotated[
    float,
    typer.Option(min=0, max=0.9, help="Share of the queries that is kept back to judge by."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Queries in one forward pass.")]
Ray = Annotated[
    str | None, typer.Option("--ray", metavar="ADDRESS", help="Compute the states on this Ray cluster.")
]
L2 = Annotated[
    float | None,
    typer.Option(min=0, max=1e6, help="Pull of the tokens towards the mean row of the meta's head."),
]
FalseTriggerRate = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=0.99,
        help="Choose biases by which so many of nobody's queries are taken.",
    ),
]
Write = Annotated[bool, typer.Option("--write", help="Put the call bias found for it into the config.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The expert's name.")]
Model = Annotated[Path | None, typer.Option(help="Folder of its checkpoint.")]
Hub = Annotated[str | None, typer.Option(help="Or its id on the Hugging Face hub.")]
Revision = Annotated[str | None, typer.Option(help="Of the hub's model.")]
Adapter = Annotated[Path | None, typer.Option(help="Or the folder of its LoRA adapter.")]
Pool = Annotated[str | None, typer.Option(help="The pool whose model that adapter is for.")]
ConfigOption = Annotated[Path, typer.Option(help="The cluster's one file.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="The file for its token.", show_default="tokens/NAME.safetensors there"),
]
Amount = Annotated[float | None, typer.Option(min=0, help="What one replica reserves.")]
Tolerance = Annotated[
    float,
    typer.Option(min=0, max=1, help="Accuracy that an expert already there may lose."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Learn and judge, but write neither token nor config.")
]
Train = Annotated[
    Path | None, typer.Option(help="What the tokens were learned from: for baselines that learn too.")
]
Url = Annotated[
    str | None, typer.Option(help="Where the cluster serves.", show_default="the one that runs here")
]
ReportFolder = Annotated[Path, typer.Option("--out", help="For the JSON, the Markdown and the pictures.")]
RoutesOnly = Annotated[bool, typer.Option("--routes-only", help="Judge routes alone; no cluster is asked.")]
