"""The built toy world: its question files, its checkpoints, and the states of its meta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.learn.metas import toy_meta
from benchmarks.learn.setting import Setting
from benchmarks.toy.domains import DOMAINS
from benchmarks.toy.models import META
from experts.checkpoint import Checkpoint
from experts.learn.formats import read_queries
from experts.learn.hidden_states import States, compute_states
from experts.learn.queries import Query

EXPERTS = tuple(sorted(DOMAINS))


@dataclass(frozen=True)
class ToyData:
    """`train`, `held_out`: the queries of the toy world's two files, all labelled. No question is in both."""

    setting: Setting
    train: list[Query]
    held_out: list[Query]

    @classmethod
    def of(cls, setting: Setting) -> ToyData:
        data = setting.toy / "data"
        return cls(setting, read_queries(data / "learn.jsonl"), read_queries(data / "questions.jsonl"))

    def checkpoints(self) -> dict[str, Checkpoint]:
        models = self.setting.toy / "models"
        return {name: Checkpoint(str(models / name), dtype="float32") for name in (META, *EXPERTS)}

    def states(self, queries: Sequence[Query]) -> States:
        meta = toy_meta(self.setting)
        return compute_states(meta.model, meta.renderer, queries)
