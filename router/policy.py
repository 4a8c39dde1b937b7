"""What may be reached next: the allowed set, and what to do after a failure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from router.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    RouterError,
    UnknownModel,
)
from router.routes import State
from router.table import META, ModelEntry, RouteTable


@dataclass(frozen=True, slots=True)
class Routing:
    """A request's own wishes. `experts` None allows every expert; `bias` is added to an expert's logit."""

    experts: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    force: str | None = None
    bias: Mapping[str, float] = field(default_factory=dict)
    call_bias: float = 0.0


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked first, and whether the meta may hand over at all."""

    writer: str
    routed: bool


class Recovery(Enum):
    RETRY = auto()  # the same model, on whichever replica answers
    REDECIDE = auto()  # the meta decides this position again, with the failed expert masked
    FAIL = auto()


def resolve(table: RouteTable, model: str | None, routing: Routing) -> Target:
    """Find out whom a request addresses.

    Raises:
        UnknownModel: `model` is none of `table.model_ids`.
        InvalidRequest: the routing options name an expert that is not there, or cannot take effect.
    """
    for field_name, names in (
        ("routing.experts", routing.experts or ()),
        ("routing.exclude", routing.exclude),
        ("routing.bias", tuple(routing.bias)),
        ("routing.force", () if routing.force is None else (routing.force,)),
    ):
        _check_names(table, field_name, names)
    name = table.name if model is None else model
    if name == table.name:
        if routing.force is not None and routing != Routing(force=routing.force):
            raise InvalidRequest("routing.force leaves no choice; drop the other routing options", "routing")
        return Target(routing.force or META, routed=routing.force is None)
    writer = table.addressed(name)
    if writer is None:
        known = ", ".join(table.model_ids)
        raise UnknownModel(f"model '{name}' does not exist; available: {known}", "model")
    if routing != Routing():
        raise InvalidRequest(
            f"routing options take effect only with model '{table.name}', not with '{name}'", "routing"
        )
    return Target(writer, routed=False)


def allowed_experts(
    table: RouteTable,
    routing: Routing,
    *,
    state_of: Callable[[str], State],
    masked: Collection[str],
    num_handoffs: int,
) -> tuple[str, ...]:
    """The one place that says which experts the meta may hand over to at this position."""
    if num_handoffs >= table.max_handoffs:
        return ()
    wanted = table.experts if routing.experts is None else frozenset(routing.experts)
    barred = {*routing.exclude, *masked}
    return tuple(
        name
        for name, entry in table.experts.items()
        if name in wanted and name not in barred and _may_be_called(entry, state_of(name))
    )


def after_failure(error: RouterError, *, is_expert: bool, routed: bool, may_retry: bool) -> Recovery:
    """Only a replica that is gone, busy or late is asked again: an engine's own exception would recur.

    An expert with too many waiting is not replaced by the meta: who is turned away comes back for the expert.
    """
    if isinstance(error, DeadlineExceeded | Overloaded):
        return Recovery.FAIL
    if isinstance(error, ModelUnavailable) and may_retry:
        return Recovery.RETRY
    return Recovery.REDECIDE if is_expert and routed else Recovery.FAIL


def _may_be_called(entry: ModelEntry, state: State) -> bool:
    # Where the meta answers meanwhile, calling for an expert under way would only have it decide twice.
    return (
        state in (State.READY, State.ASLEEP)
        or (state is State.WAKING and entry.cold_start == "wait")
        or (state is State.AWAY and entry.when_away == "wait")
    )


def _check_names(table: RouteTable, field_name: str, names: Collection[str]) -> None:
    unknown = sorted(name for name in names if name not in table.experts)
    if unknown:
        known = ", ".join(table.experts) or "none"
        raise InvalidRequest(f"{field_name}: no expert named '{unknown[0]}'; experts: {known}", field_name)
