"""The cluster as the HTTP API sees it, and the part of it that one request may see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fastapi import Request

from router.admission.controller import Admission
from router.admission.quarantine import Quarantine
from router.api.key_limits import KeyLimits
from router.api.keys import find_key, permitted
from router.availability import ModelAvailability
from router.decisions.recorder import DecisionRecorder
from router.decoding.timing import Meter
from router.load_report import ModelLoad
from router.model_port import Models
from router.table import RouteTable
from router.tracing import Tracer


class Gateway(ModelAvailability, Protocol):
    """Every request reads the current values."""

    @property
    def table(self) -> RouteTable: ...
    @property
    def models(self) -> Models: ...
    @property
    def admission(self) -> Admission: ...
    @property
    def quarantine(self) -> Quarantine: ...
    @property
    def meter(self) -> Meter: ...
    @property
    def recorder(self) -> DecisionRecorder: ...
    @property
    def tracer(self) -> Tracer: ...
    @property
    def limits(self) -> KeyLimits: ...
    @property
    def max_body_bytes(self) -> int: ...
    @property
    def ejected(self) -> Mapping[str, Mapping[str, str]]:
        """Why this router avoids replicas, by model and replica. Models that have none are left out."""
        ...

    def vocabulary(self, name: str) -> str | None:
        """Equal for two models if their token ids mean the same; None if the model's are not known."""
        ...

    async def load(self) -> Mapping[str, ModelLoad | None]:
        """The load of the meta and of each expert by name; None if it is unknown."""
        ...


def permitted_table(gateway: Gateway, request: Request) -> RouteTable:
    """The current table, with only the experts that the request's API key may reach.

    Raises:
        Unauthorized: the key was revoked after the request was accepted.
    """
    table = gateway.table
    return permitted(table, find_key(table.keys_by_digest, request.state.key_digest))
