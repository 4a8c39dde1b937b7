"""The router's side of a change: until it works with the new table and every model has answered it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import httpx

from cluster.adapter_check import AdapterCheck
from cluster.app_name import META_APP, ROUTER_APP, adapter_name
from cluster.epoch import tables
from cluster.events import ANSWERS, AppEvent, OnEvent

# What a router says of an expert that it would hand over to, or that a call would start.
OPEN = ("ready", "asleep", "waking")
FAILED = "failed"  # of an adapter


class Opening:
    """Asks the router at `url` how it sees the experts of `deploy`; those that `failed` may stay away.

    `failed_adapters`, once it is done: why, by the name of the expert.
    """

    def __init__(self, url: str, deploy: dict[str, Any], failed: Collection[str], on_event: OnEvent) -> None:
        self.last_seen = "nothing"
        self.failed_adapters: dict[str, str] = {}
        self._url = url
        self._table = tables(deploy["applications"])[ROUTER_APP]
        self._failed = failed
        self._adapters = AdapterCheck(url, deploy, failed)
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
        if not self._all_are_there(picture.get("experts", {})):
            return False
        models = self._get("/v1/models")
        # A router that asks for a key serves; whoever applies need not have one.
        return models is not None and (models.is_success or models.status_code == httpx.codes.UNAUTHORIZED)

    def _all_are_there(self, states: Mapping[str, str]) -> bool:
        entries = self._table["experts"]
        answering = {name for name in entries if states.get(name) in OPEN}
        for label in sorted({_label(name, entries[name]) for name in answering} | {META_APP}):
            self._report(label)
        if not self._adapters.done():
            return False
        failed = self._adapters.failed(name for name in entries if states.get(name) == FAILED)
        self.failed_adapters = {_label(name, entries[name]): why for name, why in failed.items()}
        missing = {name for name in entries if entries[name]["app"] not in self._failed} - answering
        return not missing - failed.keys()

    def _get(self, path: str) -> httpx.Response | None:
        try:
            return httpx.get(self._url + path, timeout=10.0, trust_env=False)
        except httpx.TransportError as error:
            self.last_seen = str(error) or type(error).__name__
            return None

    def _report(self, label: str) -> None:
        if label not in self._answered:
            self._answered.add(label)
            self._on_event(AppEvent(label, ANSWERS))


def _label(name: str, entry: Mapping[str, Any]) -> str:
    """What is reported of: the expert's application or, in a pool, the expert itself."""
    return adapter_name(entry["app"], name) if entry.get("adapter") else str(entry["app"])
