"""What every command that learns lets its user choose. Imports no torch, for `etr --help` reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MARGIN = 0.05
HELD_OUT_SHARE = 0.2
BATCH_SIZE = 16


@dataclass(frozen=True)
class LearnOptions:
    """`data`: the query set. `assigned`: where it goes once it is labelled; None is beside `data`.

    `margin`: nats per byte by which a model must lead to be given an unlabelled query.
    `states`: folder for the meta's states; None is one below `.etr` beside cluster.yaml.
    `held_out_share`: of the queries, kept back to judge by. `ray_address`: of the cluster that computes the
    states; None is this process.
    """

    data: Path
    assigned: Path | None = None
    margin: float = MARGIN
    states: Path | None = None
    held_out_share: float = HELD_OUT_SHARE
    batch_size: int = BATCH_SIZE
    ray_address: str | None = None
