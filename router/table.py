"""The route table: the frozen picture of the cluster that one answer is decoded against."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

META = "meta"  # the meta's own name, which no expert may take


class Frozen(BaseModel):
    """Shared between coroutines without copying, so nobody may change it; a misspelt key is an error."""

    # An error about it can reach Serve's logs, where digests of keys have no business.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Deadlines(Frozen):
    """`total_s` counts what models write and decide. Starting a model that sleeps is not among it: that may
    take `wake_s`, after which the first token is due within `first_token_s` as ever. An answer that cannot
    begin within `queue_s`, for others are before it, is refused."""

    queue_s: float = Field(5.0, gt=0)
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
    retries: int = Field(2, ge=0)  # in a row, without a token in between
    max_resumes: int = Field(8, ge=0)  # in a whole answer
    deadlines: Deadlines = Deadlines()
    heartbeat_s: float = Field(10.0, gt=0)  # a stream that was silent so long gets a comment line


class ModelEntry(Frozen):
    """Where a model is served. `wakes`: it may be scaled to zero, and a call starts it.

    `cold_start` says what becomes of that call: it is held until the model answers (`wait`), or the meta
    answers it while the model starts (`meta`). Whoever addresses the model by name is held either way.
    `when_away` says the same of a model all of whose replicas died or hang: `wait` writes what an undisturbed
    cluster would have written, `meta` keeps no client waiting. The two deadlines are the model's own.
    Several entries may have one application, and with it its replicas: each then names its `adapter` there.
    """

    app: str
    adapter: str | None = None
    wakes: bool = False
    cold_start: Literal["wait", "meta"] = "wait"
    when_away: Literal["wait", "meta"] = "meta"
    first_token_s: float | None = Field(None, gt=0)
    gap_s: float | None = Field(None, gt=0)
    max_streams: int = Field(32, ge=1)  # of one replica


class ApiKey(Frozen):
    """Who may ask, and for what. The key itself is nowhere: `sha256` is the hex digest of its UTF-8 text.

    `experts` None permits every expert. The limits hold in each router replica; None is no limit.
    """

    name: str = Field(min_length=1, max_length=64)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    experts: tuple[str, ...] | None = None
    requests_per_minute: int | None = Field(None, ge=1)
    max_concurrent: int | None = Field(None, ge=1)


class Limits(Frozen):
    """What one router replica takes on. `max_waiting`: answers that wait for a model's replicas, all models
    together; `max_requests`: whatever is open, those that are being read included."""

    max_waiting: int = Field(256, ge=1)
    max_requests: int = Field(1024, ge=1)


class RouteTable(RoutingRules):
    """Replaced whole, never edited; `epoch` grows with every change. Without `keys` everybody may ask."""

    epoch: int
    name: str
    meta: ModelEntry
    experts: dict[str, ModelEntry] = Field(default_factory=dict)
    keys: tuple[ApiKey, ...] = ()
    limits: Limits = Limits()

    @field_validator("experts")
    @classmethod
    def _meta_is_taken(cls, experts: dict[str, ModelEntry]) -> dict[str, ModelEntry]:
        if META in experts:
            raise ValueError(f"experts: '{META}' names the meta itself; give this expert another name")
        return experts

    def entry(self, name: str) -> ModelEntry:
        return self.meta if name == META else self.experts[name]

    def gap_s(self, name: str) -> float:
        """How long the model may be silent between two tokens."""
        return self.entry(name).gap_s or self.deadlines.gap_s

    def addressed(self, model_id: str) -> str | None:
        """Which model `{name}/…` is; None: none. Looked up, for there may be a thousand."""
        name = model_id.removeprefix(f"{self.name}/")
        return name if name != model_id and (name == META or name in self.experts) else None

    def app(self, name: str) -> str:
        """Where the model is served; models with one application share its slots, and the line before it."""
        return self.entry(name).app

    @cached_property
    def expert_apps(self) -> frozenset[str]:
        return frozenset(entry.app for entry in self.experts.values())

    @property
    def model_ids(self) -> list[str]:
        """Every model a client may name: the generalist, the meta, each expert."""
        return [self.name, f"{self.name}/{META}", *(f"{self.name}/{expert}" for expert in self.experts)]
