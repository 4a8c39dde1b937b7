"""Where answers go on that a model let in and did not begin itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping

NEWEST = 0.05  # the weight of the latest answer
NEGLIGIBLE = 0.005


class Onward:
    """What part of the latest answers went on to each other model, learned as they go."""

    def __init__(self) -> None:
        self._shares: dict[str, float] = {}

    def left(self) -> None:
        """An answer is done with this model; `went_to` follows if it waits for another one next."""
        kept = {name: share * (1 - NEWEST) for name, share in self._shares.items()}
        self._shares = {name: share for name, share in kept.items() if share > NEGLIGIBLE}

    def went_to(self, model: str) -> None:
        self._shares[model] = self._shares.get(model, 0.0) + NEWEST

    def shares(self, models: Collection[str]) -> Mapping[str, float]:
        """Of these models, those that count."""
        return {name: share for name, share in self._shares.items() if name in models}
