"""The whole toy world in a folder: models, learned tokens, and questions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.toy.build import build
from benchmarks.toy.models import SPECS
from benchmarks.toy.progress import showing_progress

_LEARNED = "tokens/learned"  # exists once all tokens are


def prepare(folder: Path) -> None:
    """Build the models and learn the tokens, unless they are there: a few minutes."""
    with showing_progress([spec.name for spec in SPECS]) as progress:
        build(folder, progress=progress)
    if not (folder / _LEARNED).exists():
        etr = Path(sys.executable).with_name("etr")
        data = folder / "data" / "learn.jsonl"
        subprocess.run(
            [etr, "learn", folder / "cluster.yaml", "--data", data, "--negatives", "0"], check=True
        )
        (folder / _LEARNED).touch()
