"""Ray's state API on the dashboard. `ray.util.state` would need `import ray`."""

from __future__ import annotations

from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict

from cluster.serve.client import ServeClient

MAX_LISTED = 10_000  # the dashboard's own limit


class _State(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class NodeState(_State):
    """`resources_total`: amounts by resource, memory in bytes."""

    node_id: str
    node_ip: str
    resources_total: dict[str, float] = {}
    labels: dict[str, str] | None = None


class ActorState(_State):
    """`death_cause`: the context of the death by its kind; at most one."""

    node_id: str | None = None
    required_resources: dict[str, float] | None = None
    death_cause: dict[str, dict[str, Any] | None] | None = None


class BundleState(_State):
    node_id: str | None = None
    unit_resources: dict[str, float] | None = None


class PlacementGroupState(_State):
    bundles: tuple[BundleState, ...] | None = None


State = TypeVar("State", bound=_State)


class _Result(_State, Generic[State]):
    result: list[State]


class _Data(_State, Generic[State]):
    result: _Result[State]


class _Listing(_State, Generic[State]):
    data: _Data[State]


def list_state(client: ServeClient, resource: str, kind: type[State], **equal: str) -> list[State]:
    """The entries of a `resource` ("nodes", "actors", "placement_groups") that match the field in `equal`.

    Raises:
        ServeUnreachable, ServeRefused.
    """
    ((key, value),) = equal.items()
    filters = {"filter_keys": key, "filter_predicates": "=", "filter_values": value}
    query = urlencode({"detail": "1", "limit": str(MAX_LISTED), **filters})
    listing = client.get(f"/api/v0/{resource}?{query}", _Listing[kind])  # type: ignore[valid-type]
    found: list[State] = listing.data.result.result
    return found
