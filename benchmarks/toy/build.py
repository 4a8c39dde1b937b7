"""Build the toy world's models and question files once: `python -m benchmarks.toy.build FOLDER`."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

from benchmarks.toy.dataset import write_learn, write_questions
from benchmarks.toy.errors import NotAToyWorld, ToyError
from benchmarks.toy.models import SPECS
from benchmarks.toy.progress import Progress, showing_progress
from benchmarks.toy.train import TrainReport
from benchmarks.toy.workers import train_all

_SOURCES = Path(__file__).parent
# The sources that decide what is built. A change of the others needs no new build.
_WORLD_SOURCES = (
    *("dataset.py", "dialogue.py", "domains.py", "facts.py", "models.py"),
    *("question.py", "smalltalk.py", "tokenizer.py", "train.py"),
)
_REPORT = "build.json"


@dataclass(frozen=True)
class BuildReport:
    """What a build did. `cached`: an earlier build of the same sources was found instead."""

    build_s: float
    digest: str
    versions: dict[str, str]
    models: tuple[TrainReport, ...]
    cached: bool = False


def build(folder: Path, *, progress: Progress, num_workers: int = 2) -> BuildReport:
    """Train all models and write the question files into `folder`, unless they are there already.

    If the sources have changed, the whole folder is replaced. Raises NotAToyWorld if the folder has
    files that no build wrote.
    """
    digest = source_digest()
    found = _found(folder)
    if found is not None and found.digest == digest:
        shutil.copy(_SOURCES / "cluster.yaml", folder / "cluster.yaml")
        return found
    began_s = time.perf_counter()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Built in another folder and renamed at the end, so that an interrupted build leaves nothing behind.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        world = Path(scratch) / "world"
        _write_data(world)
        models = train_all(SPECS, world / "models", progress=progress, num_workers=num_workers)
        report = BuildReport(time.perf_counter() - began_s, digest, _versions(), tuple(models))
        (world / _REPORT).write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(Path(scratch) / "replaced")
        world.rename(folder)
    return report


def source_digest() -> str:
    """A digest of all sources that decide what is built."""
    digest = hashlib.sha256()
    for name in _WORLD_SOURCES:
        digest.update(name.encode() + b"\0" + (_SOURCES / name).read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _found(folder: Path) -> BuildReport | None:
    if not folder.exists() or not any(folder.iterdir()):
        return None
    path = folder / _REPORT
    if not path.is_file():
        raise NotAToyWorld(f"{folder}: the folder has files but no {_REPORT}; use an empty or a new folder")
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        models = tuple(TrainReport(**model) for model in fields.pop("models"))
        return BuildReport(**{**fields, "models": models, "cached": True})
    except (ValueError, TypeError, KeyError):
        # Written by another version of the toy world, so it must be built again.
        return None


def _write_data(world: Path) -> None:
    (world / "data").mkdir(parents=True)
    write_learn(world / "data" / "learn.jsonl")
    write_questions(world / "data" / "questions.jsonl")
    shutil.copy(_SOURCES / "cluster.yaml", world / "cluster.yaml")


def _versions() -> dict[str, str]:
    return {module.__name__: module.__version__ for module in (torch, transformers, tokenizers)}


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m benchmarks.toy.build FOLDER", file=sys.stderr)
        return 2
    try:
        with showing_progress([spec.name for spec in SPECS]) as progress:
            report = build(Path(sys.argv[1]).resolve(), progress=progress)
    except ToyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    cpu_s = sum(model.cpu_s for model in report.models)
    print(
        f"toy models {'found; the build took' if report.cached else 'built in'} "
        f"{report.build_s:.0f} s ({cpu_s:.0f} s of CPU time)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
