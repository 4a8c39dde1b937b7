"""The route table: the frozen picture of the cluster that one answer is decoded against."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

META = "meta"  # the meta's own name, which no expert may take


class Frozen(BaseModel):
    """Shared between coroutines without copying, so nobody may change it; a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Deadlines(Frozen):
    """`total_s` counts what models write and decide. Starting a model that sleeps is not among it: that may
    take `wake_s`, after which the first token is due within `first_token_s` as ever."""

    first_token_s: float = Field(30.0, gt=0)
    gap_s: float = Field(10.0, gt=0)
    total_s: float = Field(600.0, gt=0)
    wake_s: float = Field(300.0, gt=0)

    @property
    def longest_s(self) -> float:
        """How long a client may be kept: all of an answer, and the start of a model for it."""
        return self.total_s + self.wake_s


class RoutingRules(Frozen):
    """What every answer keeps to, whichever experts there are."""

    when: Literal["anywhere", "start"] = "anywhere"
    after_expert: Literal["finish", "return"] = "finish"
    max_handoffs: int = Field(4, ge=0)
    call_bias: float = 0.0
    retries: int = Field(1, ge=0)
    deadlines: Deadlines = Deadlines()
    heartbeat_s: float = Field(10.0, gt=0)  # a stream that was silent so long gets a comment line


class ModelEntry(Frozen):
    """Where a model is served. `wakes`: it may be scaled to zero, and a call starts it.

    `cold_start` says what becomes of that call: it is held until the model answers (`wait`), or the meta
    answers it while the model starts (`meta`). Whoever addresses the model by name is held either way.
    """

    app: str
    wakes: bool = False
    cold_start: Literal["wait", "meta"] = "wait"


class RouteTable(RoutingRules):
    """Replaced whole, never edited; `epoch` grows with every change."""

    epoch: int
    name: str
    meta: ModelEntry
    experts: dict[str, ModelEntry] = Field(default_factory=dict)

    @field_validator("experts")
    @classmethod
    def _meta_is_taken(cls, experts: dict[str, ModelEntry]) -> dict[str, ModelEntry]:
        if META in experts:
            raise ValueError(f"experts: '{META}' names the meta itself; give this expert another name")
        return experts

    @property
    def model_ids(self) -> list[str]:
        """Every model a client may name: the generalist, the meta, each expert."""
        return [self.name, f"{self.name}/{META}", *(f"{self.name}/{expert}" for expert in self.experts)]
