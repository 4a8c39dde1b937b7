"""The router's side of a change: whether it has the new table, and whether every model answers it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from cluster.own_api_key import authorization
from cluster.serve.app_names import META_APP, ROUTER_APP, adapter_name
from cluster.serve.app_status import ANSWERS, AppEvent, OnEvent
from cluster.serve.serve_details import DeployConfig, versioned_configs
from deployments.adapters import AdapterSource
from router.load_report import ModelLoad

# The router's words for an expert that it hands over to, or that a call would start.
AVAILABLE = ("ready", "asleep", "waking")
FAILED = "failed"  # of an adapter
NO_REASON = (
    "its adapter cannot be loaded; set ETR_API_KEY to a key of this cluster, and `etr status` says why"
)
TIMEOUT_S = 10.0


class ReadinessCheck:
    """Asks the router at `url` about the experts of `deploy`.

    Experts whose application is in `failed` are not waited for.

    Attributes:
        waiting_for: what has not answered by now, for an error message.
        failed_adapters: once it is done, why an adapter could not be loaded, by application and expert.
    """

    def __init__(self, url: str, deploy: DeployConfig, failed: Collection[str], on_event: OnEvent) -> None:
        self.waiting_for = [ROUTER_APP]
        self.failed_adapters: dict[str, str] = {}
        self._url = url
        self._table = versioned_configs(deploy["applications"])[ROUTER_APP]
        self._failed = failed
        self._adapters = AdapterCheck(url, deploy, failed)
        self._on_event = on_event
        self._answered: set[str] = set()

    def done(self) -> bool:
        self.waiting_for = [ROUTER_APP]
        response = self._get("/healthz")
        if response is None:
            return False
        try:
            health = _Health.model_validate_json(response.content)
        except ValidationError:
            return False
        if not response.is_success or health.table_version != self._table["table_version"]:
            return False
        if not self._all_answer({**health.experts, **health.embedders}):
            return False
        models = self._get("/v1/models")
        # A router that requires a key is ready; the person who applies may have none.
        return models is not None and (models.is_success or models.status_code == httpx.codes.UNAUTHORIZED)

    def _all_answer(self, states: Mapping[str, str]) -> bool:
        entries = {**self._table["experts"], **self._table.get("embedders", {})}
        answering = {name for name in entries if states.get(name) in AVAILABLE}
        for label in sorted({_label(name, entries[name]) for name in answering} | {META_APP}):
            self._report(label)
        expected = {name for name in entries if entries[name]["app"] not in self._failed}
        if missing := expected - answering:
            self.waiting_for = sorted(_label(name, entries[name]) for name in missing)
        if not self._adapters.done():
            return False
        failed = self._adapters.failed(name for name in entries if states.get(name) == FAILED)
        self.failed_adapters = {_label(name, entries[name]): why for name, why in failed.items()}
        return missing <= failed.keys()

    def _get(self, path: str) -> httpx.Response | None:
        try:
            return httpx.get(self._url + path, timeout=TIMEOUT_S, trust_env=False)
        except httpx.RequestError:
            return None

    def _report(self, label: str) -> None:
        if label not in self._answered:
            self._answered.add(label)
            self._on_event(AppEvent(label, ANSWERS))


class AdapterCheck:
    """Asks the router whether every replica of the pools has the adapters of `deploy`.

    Applications in `failed` are left out. If the router requires a key and we have none, only what
    `/healthz` says is known: neither why an adapter failed, nor whether all replicas have its new version.
    """

    def __init__(self, url: str, deploy: DeployConfig, failed: Collection[str]) -> None:
        self._url = url
        self._versions = dict(_adapter_versions(deploy, failed))
        self._errors: dict[str, str] = {}
        self._is_unauthorized = False

    def done(self) -> bool:
        """Whether every adapter is loaded, or has failed to load, in every replica that runs."""
        if not self._versions:
            return True
        try:
            response = httpx.get(
                f"{self._url}/stats", headers=authorization(), timeout=TIMEOUT_S, trust_env=False
            )
            if response.status_code == httpx.codes.UNAUTHORIZED:
                self._is_unauthorized = True
                return True
            loads = _Stats.model_validate_json(response.raise_for_status().content).models
        except (httpx.HTTPError, ValidationError):
            return False
        return all(self._is_settled(name, loads.get(name)) for name in self._versions)

    def failed(self, given_up: Iterable[str]) -> dict[str, str]:
        """Why an adapter does not have the version it should have, by expert.

        `given_up`: the experts that the router reports as failed, used when nothing else is known.
        """
        if self._is_unauthorized:
            return dict.fromkeys(given_up, NO_REASON)
        return {name: why for name, why in self._errors.items() if why}

    def _is_settled(self, name: str, load: ModelLoad | None) -> bool:
        self._errors[name] = ""
        if load is None:
            return False
        version = self._versions[name]
        adapters = [replica.adapters.get(name) for replica in load.replicas]
        known = [adapter for adapter in adapters if adapter is not None and adapter.wanted == version]
        self._errors[name] = next((adapter.error for adapter in known if adapter.error), "")
        settled = all(adapter.error or adapter.version == version for adapter in known)
        return settled and len(known) == len(adapters)


class _Health(BaseModel):
    table_version: int | None = None
    experts: dict[str, str] = {}
    embedders: dict[str, str] = {}


class _Stats(BaseModel):
    models: dict[str, ModelLoad | None]


def _label(name: str, entry: Mapping[str, Any]) -> str:
    """What events name: the expert's application, or the expert itself if it is in a pool."""
    return adapter_name(entry["app"], name) if entry.get("adapter") else str(entry["app"])


def _adapter_versions(deploy: DeployConfig, failed: Collection[str]) -> Iterator[tuple[str, str]]:
    for app in deploy["applications"]:
        for deployment in app["deployments"] if app["name"] not in failed else ():
            for name, source in (deployment["user_config"].get("adapters") or {}).items():
                yield name, AdapterSource.model_validate(source).version
