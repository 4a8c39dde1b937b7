"""Whether every replica of the pools has the adapters that were asked for: the router's `/stats` says so."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import httpx
from pydantic import TypeAdapter, ValidationError

from cluster.api_key import authorization
from deployments.adapters import AdapterSource
from router.load import ModelLoad

NO_REASON = "its adapter cannot be loaded; `etr status` says why, with a key in ETR_API_KEY"
_MODELS = TypeAdapter(dict[str, ModelLoad | None])


class AdapterCheck:
    """Asks the router at `url` about the adapters of `deploy`, but for applications that have `failed`.

    A router may ask for a key that whoever applies does not have. Then only what `/healthz` says is known:
    neither why an adapter failed, nor whether all replicas have its new version yet.
    """

    def __init__(self, url: str, deploy: dict[str, Any], failed: Collection[str]) -> None:
        self._url = url
        self._versions = dict(_versions(deploy, failed))
        self._errors: dict[str, str] = {}
        self._is_blind = False

    def done(self) -> bool:
        """Whether each is loaded, or has failed to be, wherever a replica runs."""
        if not self._versions:
            return True
        try:
            response = httpx.get(f"{self._url}/stats", headers=authorization(), timeout=10.0, trust_env=False)
            if response.status_code == httpx.codes.UNAUTHORIZED:
                self._is_blind = True
                return True
            loads = _MODELS.validate_python(response.raise_for_status().json()["models"])
        except (httpx.HTTPError, ValueError, KeyError, ValidationError):
            return False
        return all(self._is_settled(name, loads.get(name)) for name in self._versions)

    def failed(self, unserved: Iterable[str]) -> dict[str, str]:
        """By expert, why its adapter is not what it should be. `unserved`: those the router gave up."""
        if self._is_blind:
            return dict.fromkeys(unserved, NO_REASON)
        return {name: why for name, why in self._errors.items() if why}

    def _is_settled(self, name: str, load: ModelLoad | None) -> bool:
        self._errors[name] = ""
        if load is None:
            return False
        version, adapters = self._versions[name], [replica.adapters.get(name) for replica in load.replicas]
        known = [one for one in adapters if one is not None and one.wanted == version]
        self._errors[name] = next((one.error for one in known if one.error), "")
        return len(known) == len(adapters) and all(one.error or one.version == version for one in known)


def _versions(deploy: dict[str, Any], failed: Collection[str]) -> Iterator[tuple[str, str]]:
    for app in deploy["applications"]:
        for deployment in app["deployments"] if app["name"] not in failed else ():
            for name, source in (deployment["user_config"].get("adapters") or {}).items():
                yield name, AdapterSource.model_validate(source).version
