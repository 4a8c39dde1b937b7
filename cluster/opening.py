"""The router's side of a change: until it works with the new table and every model has answered it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import httpx

from cluster.epoch import tables
from cluster.events import ANSWERS, AppEvent, OnEvent
from cluster.serve_config import META_APP, ROUTER_APP, expert_app

# What a router says of an expert that it would hand over to, or that a call would start.
OPEN = ("ready", "asleep", "waking")


class Opening:
    """Asks the router at `url` how it sees the experts of `deploy`; those that `failed` may stay away."""

    def __init__(self, url: str, deploy: dict[str, Any], failed: Collection[str], on_event: OnEvent) -> None:
        self.last_seen = "nothing"
        self._url = url
        self._table = tables(deploy["applications"])[ROUTER_APP]
        self._failed = failed
        self._on_event = on_event
        self._answered: set[str] = set()

    def done(self) -> bool:
        health = self._get("/healthz")
        if health is None:
            return False
        self.last_seen = f"{health.status_code} {health.text[:500]}"
        try:
            picture = health.json()
        except ValueError:
            return False
        if not health.is_success or picture.get("epoch") != self._table["epoch"]:
            return False
        states = picture.get("experts", {})
        answering = {expert_app(name) for name, state in states.items() if state in OPEN}
        for app in sorted(answering | {META_APP}):
            self._report(app)
        missing = {expert_app(name) for name in self._table["experts"]} - answering - set(self._failed)
        models = None if missing else self._get("/v1/models")
        # A router that asks for a key serves; whoever applies need not have one.
        return models is not None and (models.is_success or models.status_code == httpx.codes.UNAUTHORIZED)

    def _get(self, path: str) -> httpx.Response | None:
        try:
            return httpx.get(self._url + path, timeout=10.0, trust_env=False)
        except httpx.TransportError as error:
            self.last_seen = str(error) or type(error).__name__
            return None

    def _report(self, app: str) -> None:
        if app not in self._answered:
            self._answered.add(app)
            self._on_event(AppEvent(app, ANSWERS))
