"""Where answers go on that were let in by one line and not begun there."""

from __future__ import annotations

from collections.abc import Collection, Mapping

NEWEST = 0.05  # the weight of the latest answer
NEGLIGIBLE = 0.005


class Onward:
    """What part of the latest answers went on to each other line, learned as they go."""

    def __init__(self) -> None:
        self._shares: dict[str, float] = {}

    def left(self) -> None:
        """An answer is done here; `went_to` follows if it waits in another line next."""
        kept = {name: share * (1 - NEWEST) for name, share in self._shares.items()}
        self._shares = {name: share for name, share in kept.items() if share > NEGLIGIBLE}

    def went_to(self, line: str) -> None:
        self._shares[line] = self._shares.get(line, 0.0) + NEWEST

    def shares(self, lines: Collection[str]) -> Mapping[str, float]:
        """Of these lines, those that count."""
        return {name: share for name, share in self._shares.items() if name in lines}
