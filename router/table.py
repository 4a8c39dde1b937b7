"""The route table: an immutable snapshot of the models and rules that one answer is decoded against."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from pydantic import Field, field_validator

from router.api_key import ApiKey
from router.chain_rules import CHAIN_STOP, ChainRules
from router.decision_log_rules import DecisionLogRules
from router.frozen import Frozen
from router.media_rules import MediaRules, Modality
from router.model_ids import model_ids
from router.outlier_rules import OutlierRules

META = "meta"  # the name of the meta; no expert may have it


class Deadlines(Frozen):
    """The deadlines of an answer, in seconds."""

    queue_s: float = Field(
        60.0,
        gt=0,
        description="Seconds that a request may wait for a busy model before it is refused with status 429.",
    )
    first_token_s: float = Field(
        30.0,
        gt=0,
        description="Seconds until a model's first token. After that, the call is tried on another replica.",
    )
    gap_s: float = Field(
        10.0,
        gt=0,
        description="Seconds between two tokens of a model. Then another replica continues the answer.",
    )
    total_s: float = Field(
        600.0, gt=0, description="Seconds for a whole answer, without the start of models that are asleep."
    )
    wake_s: float = Field(
        300.0,
        gt=0,
        description="Seconds that an answer may wait for models that are asleep, for all starts together.",
    )

    @property
    def longest_s(self) -> float:
        """The longest time that an answer can take, starts of models included."""
        return self.total_s + self.wake_s


class RoutingRules(Frozen):
    """The routing rules that apply to every answer."""

    when: Literal["anywhere", "start"] = Field(
        "anywhere",
        description="Where the meta may hand over: at any position of the answer, or only at its start.",
    )
    after_expert: Literal["finish", "return", "chain"] = Field(
        "finish",
        description="What happens when an expert stops. `finish`: the answer ends. `return`: the meta "
        "continues it. `chain`: the meta may have another expert write the answer anew.",
    )
    chain: ChainRules = Field(ChainRules(), description="The rules of `after_expert: chain`.")
    max_handoffs: int = Field(4, ge=0, description="Maximum number of hand-overs to experts in one answer.")
    call_bias: float = Field(
        0.0, description="Added to the logit of every expert token. Higher: the meta hands over more often."
    )
    stay_bias: float = Field(
        0.0,
        description="Added to the logit of the expert that wrote the last turn of the conversation. Higher: "
        "a question stays with it more often.",
    )
    retries: int = Field(
        2, ge=0, description="Repeated calls of one model in a row, without a token in between."
    )
    max_resumes: int = Field(
        8, ge=0, description="Failures of one answer, of all its models, after which no call is repeated."
    )
    deadlines: Deadlines = Field(Deadlines(), description="Deadlines of an answer.")
    outliers: OutlierRules = Field(
        OutlierRules(), description="When a replica that answers with errors is set aside."
    )
    heartbeat_s: float = Field(
        10.0,
        gt=0,
        description="Seconds of silence after which a stream gets a comment line, to keep it open.",
    )


class ModelEntry(Frozen):
    """Where a model is served, and its own rules.

    `app` is its Serve application. Several entries may share one, and with it its replicas and slots; each
    then names its `adapter` there.
    `scales_to_zero`: it may be scaled to zero, and is started by a call.
    `cold_start` says what happens to that call: it waits for the model (`wait`), or the meta answers
    meanwhile (`meta`). A request that addresses the model by name always waits.
    `on_unavailable` says the same for a model without a healthy replica. `wait` gives the answer that an
    undisturbed cluster would give; `meta` keeps no client waiting.
    `first_token_s` and `gap_s` override the general deadlines.
    `window` is the context window in tokens, as far as it is configured. `modalities` are what it reads.
    """

    app: str
    adapter: str | None = None
    scales_to_zero: bool = False
    cold_start: Literal["wait", "meta"] = "wait"
    on_unavailable: Literal["wait", "meta"] = "meta"
    first_token_s: float | None = Field(None, gt=0)
    gap_s: float | None = Field(None, gt=0)
    max_streams: int = Field(32, ge=1)  # of one replica
    window: int | None = Field(None, ge=1)
    modalities: tuple[Modality, ...] = ("text",)


class Limits(Frozen):
    """The limits of one router replica."""

    max_waiting: int = Field(
        256, ge=1, description="Maximum number of answers that wait for busy models, all models together."
    )
    max_requests: int = Field(
        1024,
        ge=1,
        description="Maximum number of open requests, including those whose body is still arriving.",
    )


class Tracing(Frozen):
    """Which requests are traced, and where their spans go."""

    endpoint: str = Field(
        pattern=r"^https?://[^\s/]+(/\S*)?$",
        description="Where spans are sent, in OTLP over HTTP, such as `http://collector:4318/v1/traces`.",
    )
    sampling_ratio: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of the requests that are traced. If a client sends a `traceparent`, the client "
        "decides.",
    )
    include_text: bool = Field(
        False, description="Whether spans hold prompts and answers. By default they hold no text."
    )
    headers_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable, on every node, with headers for `endpoint`, such as an API key: "
        "`name=value`, separated by commas.",
    )
    service: str = Field(
        "expert-token-routing", min_length=1, max_length=255, description="`service.name` of the spans."
    )


class RouteTable(RoutingRules):
    """Replaced as a whole, with a higher `table_version`. Without `keys`, no request needs a key.

    Web pages of `cors_origins` may use the API. With `allow_chat_template`, a request may bring a template.
    With `page`, browsers get a page. With `has_chain_stop`, the meta has a row named `CHAIN_STOP`. With
    `separate_caches`, no key's requests find in a prefix cache what another key has sent.
    """

    table_version: int
    name: str
    meta: ModelEntry
    experts: dict[str, ModelEntry] = Field(default_factory=dict)
    embedders: dict[str, ModelEntry] = Field(default_factory=dict)  # models that only embed
    keys: tuple[ApiKey, ...] = ()
    limits: Limits = Limits()
    cors_origins: tuple[str, ...] = ()
    allow_chat_template: bool = False
    separate_caches: bool = False
    page: bool = True
    tracing: Tracing | None = None
    shadows: tuple[str, ...] = ()
    aliases: dict[str, str] = Field(default_factory=dict)  # further names of models
    has_chain_stop: bool = False
    decision_log: DecisionLogRules | None = None
    media: MediaRules = MediaRules()
    max_table_age_s: float | None = None  # since the last sign of what delivers tables
    key_priority: int = 0  # in the table of one request: that of its key

    @field_validator("experts")
    @classmethod
    def _no_expert_has_a_reserved_name(cls, experts: dict[str, ModelEntry]) -> dict[str, ModelEntry]:
        for name in experts.keys() & {META, CHAIN_STOP}:
            raise ValueError(f"experts: '{name}' is reserved; give this expert another name")
        return experts

    def entry(self, name: str) -> ModelEntry:
        return self.models[name]

    def gap_s(self, name: str) -> float:
        """How long the model may be silent between two tokens."""
        return self.entry(name).gap_s or self.deadlines.gap_s

    def addressed(self, model_id: str) -> str | None:
        """The model that the id `{self.name}/MODEL` addresses; None if there is none. It writes answers."""
        name = model_id.removeprefix(f"{self.name}/")
        return name if name != model_id and (name == META or name in self.experts) else None

    def embedder(self, model_id: str) -> str | None:
        """The same for models that embed; `model_id` may be an alias."""
        name = self.aliases.get(model_id, model_id).removeprefix(f"{self.name}/")
        return name if name in self.embedders and model_id != name else None

    def app(self, name: str) -> str:
        """The application of a model. Models with the same one share its slots and its queue."""
        return self.entry(name).app

    @cached_property
    def models(self) -> dict[str, ModelEntry]:
        """Everything that can be called: the meta, the experts and the embedders."""
        return {META: self.meta, **self.experts, **self.embedders}

    @cached_property
    def keys_by_digest(self) -> dict[str, ApiKey]:
        return {key.sha256: key for key in self.keys}

    @cached_property
    def expert_apps(self) -> frozenset[str]:
        return frozenset(entry.app for entry in self.experts.values())

    @cached_property
    def in_place(self) -> dict[str, str]:
        """The experts that are adapters in the meta's own application, each with its adapter's name."""
        return {n: e.adapter for n, e in self.experts.items() if e.adapter and e.app == self.meta.app}

    @cached_property
    def narrow_windows(self) -> dict[str, int]:
        """Of the experts whose context window is known, and is not known to be as large as the meta's."""
        largest = self.meta.window
        windows = {name: entry.window for name, entry in self.experts.items() if entry.window is not None}
        return {name: window for name, window in windows.items() if largest is None or window < largest}

    @property
    def model_ids(self) -> list[str]:
        """Every model that a request may name: the generalist, the meta, each expert and embedder, and
        their aliases."""
        ids = model_ids(self.name, (META, *self.experts, *self.embedders))
        known = frozenset(ids)
        return [*ids, *(alias for alias, model_id in self.aliases.items() if model_id in known)]
