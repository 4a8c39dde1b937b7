"""The options of a run: its folders, and whether it is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """`quick`: all sizes are small, so that a run takes seconds and its figures mean nothing.

    `toy`: the folder of a built toy world. `cache`: where models trained for the benchmark are kept.
    """

    quick: bool
    toy: Path
    cache: Path

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full
