"""Where a run finds its models and keeps what it builds, and whether it is a quick one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """`quick` shrinks every size, so that a run takes seconds and its figures mean nothing.

    `demo`: the folder of a built demo world. `cache`: where models trained for the benchmark are kept.
    """

    quick: bool
    demo: Path
    cache: Path

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full
