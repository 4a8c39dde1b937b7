"""The built demo world as the sections need it: question files, checkpoints, states under its meta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.learning.metas import demo_meta
from benchmarks.learning.setting import Setting
from examples.demo.domains import DOMAINS
from examples.demo.models import META
from experts.checkpoint import Checkpoint
from experts.learn.formats import read_queries
from experts.learn.queries import Query
from experts.learn.states import States, compute_states

EXPERTS = tuple(sorted(DOMAINS))


@dataclass(frozen=True)
class Demo:
    """`train` and `held_out`: the demo's two files, all labelled; no question is in both."""

    setting: Setting
    train: list[Query]
    held_out: list[Query]

    @classmethod
    def of(cls, setting: Setting) -> Demo:
        data = setting.demo / "data"
        return cls(setting, read_queries(data / "learn.jsonl"), read_queries(data / "questions.jsonl"))

    def checkpoints(self) -> dict[str, Checkpoint]:
        models = self.setting.demo / "models"
        return {name: Checkpoint(str(models / name), dtype="float32") for name in (META, *EXPERTS)}

    def states(self, queries: Sequence[Query]) -> States:
        meta = demo_meta(self.setting)
        return compute_states(meta.model, meta.renderer, queries)
