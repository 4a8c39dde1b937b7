"""Which models an answer may reach next: the target, the allowed set, and the recovery from a failure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from router.admission.context import AdmissionContext
from router.availability import ModelAvailability, ModelState
from router.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    RouterError,
    UnknownModel,
)
from router.table import META, ModelEntry, RouteTable


@dataclass(frozen=True, slots=True)
class Routing:
    """A request's routing options. `experts` None allows every expert.

    `bias` is added to the logit of the expert that it names, and `call_bias` to those of all experts.
    `stay_bias` is added to that of the expert that wrote the last turn; None: as the route table says.
    """

    experts: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    force: str | None = None
    bias: Mapping[str, float] = field(default_factory=dict)
    call_bias: float = 0.0
    stay_bias: float | None = None

    def stay_bias_in(self, table: RouteTable) -> float:
        return table.stay_bias if self.stay_bias is None else self.stay_bias

    def staying_with(self, author: str | None, table: RouteTable) -> Routing:
        """With the bias for the author of the last turn, if the request may reach it."""
        if author is None or author not in table.experts:
            return self
        bias = self.bias.get(author, 0.0) + self.stay_bias_in(table)
        return replace(self, bias={**self.bias, author: bias})


@dataclass(frozen=True, slots=True)
class Target:
    """The model that is called first, and whether the meta may hand over at all."""

    writer: str
    routed: bool


class Recovery(Enum):
    RETRY = auto()  # call the same model again; any replica may answer
    REDECIDE = auto()  # the meta decides this position again, with the failed expert masked
    FAIL = auto()  # the answer ends with the error


def resolve(table: RouteTable, model: str | None, routing: Routing) -> Target:
    """The target of a request for `model`; None is the generalist.

    Raises:
        UnknownModel: `model` is not one of `table.model_ids`.
        InvalidRequest: a routing option names an unknown expert or has no effect.
    """
    for field_name, names in (
        ("routing.experts", routing.experts or ()),
        ("routing.exclude", routing.exclude),
        ("routing.bias", tuple(routing.bias)),
        ("routing.force", () if routing.force is None else (routing.force,)),
    ):
        _check_names(table, field_name, names)
    name = table.name if model is None else table.aliases.get(model, model)
    if name == table.name:
        if routing.force is not None and routing != Routing(force=routing.force):
            raise InvalidRequest(
                "routing.force leaves no choice; remove the other routing options", "routing"
            )
        return Target(routing.force or META, routed=routing.force is None)
    writer = table.addressed(name)
    if table.embedder(name) is not None:
        raise InvalidRequest(
            f"model '{model}' has embeddings and writes no answers; send it to /v1/embeddings", "model"
        )
    if writer is None:
        known = ", ".join(table.model_ids)
        raise UnknownModel(f"model '{model}' does not exist; available: {known}", "model")
    if routing != Routing():
        raise InvalidRequest(
            f"routing options take effect only with model '{table.name}', not with '{name}'", "routing"
        )
    return Target(writer, routed=False)


@dataclass(frozen=True, slots=True)
class Selection:
    """The experts that a decision may choose from, and the others by name, each with the reason.

    Reasons: `limit` (no further hand-over), `excluded` (by the request), `modality` (it cannot read what the
    conversation holds), `failed` (it is broken, failed during this answer, or is blocked for its prompt),
    `asleep` (it is starting and not waited for), `unavailable` (no healthy replica), `starting` (it has never
    answered).
    """

    allowed: tuple[str, ...] = ()
    masked: Mapping[str, str] = field(default_factory=dict)


def select_experts(
    table: RouteTable,
    routing: Routing,
    modalities: Collection[str] = (),
    *,
    state_of: Callable[[str], ModelState],
    masked: Collection[str],
    num_handoffs: int,
) -> Selection:
    """Which experts the meta may hand over to at this position; nothing else decides this.

    `modalities` are those of the prompt. `masked` are the experts that failed during this answer or are
    blocked for its prompt. If the meta cannot read the prompt, it cannot answer in the place of an expert.
    """
    if num_handoffs >= table.max_handoffs:
        return Selection((), dict.fromkeys(table.experts, "limit"))
    wanted = table.experts if routing.experts is None else frozenset(routing.experts)
    excluded, allowed, reasons = frozenset(routing.exclude), [], {}
    meta_reads = reads(table.meta, modalities)
    for name, entry in table.experts.items():
        if name not in wanted or name in excluded:
            reasons[name] = "excluded"
        elif not reads(entry, modalities):
            reasons[name] = "modality"
        elif reason := _why_not_called(entry, state_of(name), may_wait=not meta_reads):
            reasons[name] = reason
        elif name in masked:
            reasons[name] = "failed"
        else:
            allowed.append(name)
    return Selection(tuple(allowed), reasons)


def reads(entry: ModelEntry, modalities: Collection[str]) -> bool:
    """Whether a model can read a prompt with these modalities besides text."""
    return all(modality in entry.modalities for modality in modalities)


def readers(table: RouteTable, routing: Routing, modalities: Collection[str]) -> list[str]:
    """The experts that the request may reach, and that can read its prompt."""
    wanted = [*table.experts] if routing.experts is None else routing.experts
    return [n for n in wanted if n not in routing.exclude and reads(table.experts[n], modalities)]


def is_left_to_meta(table: RouteTable, availability: ModelAvailability, expert: str) -> bool:
    """Whether the expert is asleep and not waited for."""
    is_asleep = availability.state(expert) in (ModelState.ASLEEP, ModelState.WAKING)
    return is_asleep and table.entry(expert).cold_start == "meta"


def admission_context(table: RouteTable, key: str = "", priority: int = 0) -> AdmissionContext:
    """What the queues need to know of a client request; `key` is the name of its API key."""
    return AdmissionContext(
        queue_s=table.deadlines.queue_s,
        max_waiting=table.limits.max_waiting,
        key=key,
        priority=priority,
        key_priority=table.key_priority,
    )


def after_failure(error: RouterError, *, is_expert: bool, routed: bool, may_retry: bool) -> Recovery:
    """What to do about an error of the active model.

    Retry only if the replica was gone, busy or late: an exception of the engine would occur again. The meta
    does not replace an expert whose queue is full: the client is refused, and should retry with the expert.
    """
    if isinstance(error, DeadlineExceeded | Overloaded):
        return Recovery.FAIL
    if isinstance(error, ModelUnavailable) and may_retry:
        return Recovery.RETRY
    return Recovery.REDECIDE if is_expert and routed else Recovery.FAIL


def _why_not_called(entry: ModelEntry, state: ModelState, *, may_wait: bool) -> str | None:
    """Why a model in this state cannot be called; None if it can. `may_wait`: even if it is configured that
    the meta answers meanwhile."""
    match state:
        case ModelState.READY | ModelState.ASLEEP:
            return None
        case ModelState.WAKING:
            # Choosing an expert that is starting would only make the meta decide again.
            return None if entry.cold_start == "wait" or may_wait else "asleep"
        case ModelState.UNAVAILABLE:
            return None if entry.on_unavailable == "wait" or may_wait else "unavailable"
        case ModelState.MASKED:
            return "starting"
        case ModelState.FAILED:
            return "failed"


def _check_names(table: RouteTable, field_name: str, names: Collection[str]) -> None:
    unknown = sorted(name for name in names if name not in table.experts)
    if unknown:
        known = ", ".join(table.experts) or "none"
        raise InvalidRequest(f"{field_name}: no expert named '{unknown[0]}'; experts: {known}", field_name)
