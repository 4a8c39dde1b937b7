"""Serve finishes its work on a request whose client left, whatever the request's calls do when they end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from ray.serve import context
from ray.serve._private import replica
from ray.serve._private.common import RequestMetadata

from deployments.replicas.cancelled_requests import log_cancelled_requests


class Call:
    """Removes itself when it ends, as Serve's calls do."""

    def __init__(self, name: str) -> None:
        self.is_cancelled = False
        self._name = name
        context._add_in_flight_request("parent", name, self)

    def cancel(self) -> None:
        self.is_cancelled = True
        context._remove_in_flight_request("parent", self._name)


@pytest.fixture(autouse=True)
def _serve_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(replica, "_get_in_flight_requests", context._get_in_flight_requests)
        yield


def test_all_calls_of_a_request_are_cancelled_though_each_removes_itself():
    log_cancelled_requests()
    calls = [Call("a"), Call("b")]
    _client_leaves()
    assert all(call.is_cancelled for call in calls)


def test_without_the_copy_serve_fails():
    """If this fails, Serve has repaired it, and `deployments/replicas/cancelled_requests.py` can go."""
    Call("a"), Call("b")
    with pytest.raises(RuntimeError, match="changed size"):
        _client_leaves()
    context._in_flight_requests.clear()


def _client_leaves() -> None:
    request: Any = RequestMetadata(request_id="public", internal_request_id="parent")
    no_replica: Any = None  # the method reads nothing of its replica
    replica.Replica._on_request_cancelled(no_replica, request, asyncio.CancelledError())
