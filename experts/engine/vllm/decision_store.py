"""Passes routing decisions from the process that samples to the engine's own process.

The sampled token id only says that the answer ends. It does not say which expert takes over, or with what
probability. The worker writes that to this host's memory before it sends the token, so the decision is there
when the token arrives.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Container
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experts.engine.routing_report import Candidates, ShadowWin

_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class RoutingDecision:
    """The decision at token number `step` of an answer, counted from 0.

    A hand-over has `expert`, `probability` and `candidates`; a probe has `distribution`.
    """

    step: int
    expert: str | None
    probability: float | None
    distribution: dict[str, float] | None
    candidates: Candidates | None = None


@dataclass(frozen=True, slots=True)
class Observations:
    """What is to be reported of a call so far, whoever writes on: the candidates of its first decision, if
    they are asked for, and the wins of shadows, whose positions count from the call's first step."""

    first_candidates: Candidates | None = None
    shadow_wins: tuple[ShadowWin, ...] = ()


class DecisionStore:
    """One file for each request with a decision, and one for what else was observed; the file names begin
    with the request's `key`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls) -> DecisionStore:
        """A new store in shared memory, or on disk if this host has none; only this user can read it."""
        parent = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
        store = cls(Path(tempfile.mkdtemp(prefix="etr-engine-", dir=parent)))
        # Shared memory outlives the process, so it is freed at exit even if `remove` is never called.
        weakref.finalize(store, shutil.rmtree, store.folder, ignore_errors=True)
        return store

    def post(self, key: str, decision: RoutingDecision) -> None:
        (self.folder / key).write_text(json.dumps(asdict(decision)), encoding="utf-8")

    def observe(self, key: str, observations: Observations) -> None:
        """Replaces what was observed of the request before, at once: it may be read at any time."""
        new = self.folder / f"{key}.new"
        new.write_text(json.dumps(asdict(observations)), encoding="utf-8")
        new.replace(self.folder / f"{key}.observed")

    def observed(self, key: str) -> Observations:
        """All that was observed of the request so far."""
        try:
            text = (self.folder / f"{key}.observed").read_text(encoding="utf-8")
        except FileNotFoundError:
            return Observations()
        found = json.loads(text)
        wins = tuple(ShadowWin(**win) for win in found["shadow_wins"])
        return Observations(_candidates(found["first_candidates"]), wins)

    def take(self, key: str) -> RoutingDecision | None:
        """The request's decision, which is removed; None if there is none."""
        try:
            text = (self.folder / key).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        (self.folder / key).unlink(missing_ok=True)
        found = json.loads(text)
        return RoutingDecision(**{**found, "candidates": _candidates(found["candidates"])})

    def keep_only(self, keys: Container[str]) -> None:
        """Remove the decisions of all requests but these.

        A worker may still post for a request that was cancelled a moment ago, so it is not enough to remove
        the decision of the request that ends.
        """
        for file in self.folder.iterdir():
            if file.name.split(".")[0] not in keys:
                file.unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _candidates(found: dict[str, Any] | None) -> Candidates | None:
    if found is None:
        return None
    return Candidates(found["word"], tuple((name, logprob) for name, logprob in found["experts"]))
