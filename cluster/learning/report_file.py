"""Writes what learning has changed to a file, which the page of the router shows as pictures."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.errors import ConfigError
from cluster.learning.add_expert import AdditionTrial
from experts.evaluate.learning_report import learning_report
from experts.files import write_atomic
from experts.learn.learn import FitReport


def write_fit(path: Path, report: FitReport) -> None:
    """Of tokens that were learned together. Raises ConfigError."""
    _write(path, learning_report(report.names, report.before, report.after, num_held_out=report.num_held_out))


def write_trial(path: Path, trial: AdditionTrial) -> None:
    """Of a new expert, also of one that is refused. Raises ConfigError."""
    names = sorted([*trial.incumbents, trial.new.name])
    num_held_out = len(trial.after)
    report = learning_report(
        names, trial.before, trial.after, num_held_out=num_held_out, added=trial.new.name
    )
    _write(path, report)


def _write(path: Path, report: dict[str, object]) -> None:
    data = json.dumps(report, ensure_ascii=False, allow_nan=False, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data.encode() + b"\n")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be written: {error.strerror}; name another file"]) from error
