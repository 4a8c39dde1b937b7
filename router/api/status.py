"""The endpoints that show the cluster: its models, its health and load, its version."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, get_args

from fastapi import Request, Response

from router.admission.lease import KeyUse, Limit
from router.api.gateway import Gateway, permitted_table
from router.api.keys import find_key
from router.api.middleware import error_headers, json_response
from router.api.sse import envelope
from router.api_key import ApiKey
from router.availability import ModelState
from router.errors import ModelBroken, ModelUnavailable, UnknownModel
from router.media_rules import Modality
from router.table import META, RouteTable

META_UNAVAILABLE = "the meta does not answer at present"
META_BROKEN = "the meta has failed: its replicas die whatever they are asked; its log says why"
MAX_QUOTED = 256  # characters of a request that an error message repeats
DIGEST_CHARS = 8  # of a key's digest, as `etr keys list` shows it
PACKAGE = "expert-token-routing"


class StatusEndpoints:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._started_at_s = int(time.time())

    async def list_models(self, request: Request) -> Response:
        """List the models that a client may name."""
        table = permitted_table(self._gateway, request)
        return json_response(
            {"object": "list", "data": [self._model(table, name) for name in table.model_ids]}
        )

    async def retrieve_model(self, request: Request) -> Response:
        """Describe a model."""
        # Not a parameter of this method: FastAPI would document its own response to an invalid one.
        model_id = request.path_params["model_id"]
        table = permitted_table(self._gateway, request)
        if model_id not in table.model_ids:
            raise UnknownModel(
                f"model '{model_id[:MAX_QUOTED]}' does not exist; /v1/models lists those that do", "model"
            )
        return json_response(self._model(table, model_id))

    def _model(self, table: RouteTable, model_id: str) -> dict[str, Any]:
        whole = table.aliases.get(model_id, model_id)
        name = table.addressed(whole) or table.embedder(whole) or META
        names = [whole, *(alias for alias, stands_for in table.aliases.items() if stands_for == whole)]
        readers = (META, *table.experts) if whole == table.name else (name,)
        read = {modality for reader in readers for modality in table.entry(reader).modalities}
        return {
            "id": model_id,
            "object": "model",
            "created": self._started_at_s,
            "owned_by": table.name,
            "max_model_len": table.entry(name).window,
            "state": self._gateway.state(name),
            "task": "embed" if name in table.embedders else "generate",
            "modalities": [each for each in get_args(Modality) if each in read],
            "aliases": [each for each in names if each != model_id],
        }

    async def health(self, request: Request) -> Response:
        """Check whether the router can answer."""
        table = self._gateway.table
        experts = {name: self._gateway.state(name) for name in table.experts}
        states: dict[str, Any] = {"table_version": table.table_version, "experts": experts}
        if table.embedders:
            states["embedders"] = {name: self._gateway.state(name) for name in table.embedders}
        meta = self._gateway.state(META)
        if meta is ModelState.READY:
            return json_response({"status": "ok", **states})
        is_broken = meta is ModelState.FAILED
        error = ModelBroken(META_BROKEN) if is_broken else ModelUnavailable(META_UNAVAILABLE)
        body = {"status": "failed" if is_broken else "unavailable", **states, **envelope(error)}
        return json_response(body, error.status, error_headers(error))

    async def stats(self, request: Request) -> Response:
        """Show how busy the models are."""
        table, loads = permitted_table(self._gateway, request), await self._gateway.load()
        names = {META, *table.experts, *table.embedders}
        known = {name: load for name, load in loads.items() if name in names}
        models = {name: None if load is None else asdict(load) for name, load in known.items()}
        by_app = self._gateway.admission.load()
        queues = {name: by_app[app] for name in known if (app := table.app(name)) in by_app}
        ejected = {name: why for name, why in self._gateway.ejected.items() if name in names}
        body = {"table_version": table.table_version, "models": models}
        return json_response({**body, "admission": queues, "ejected": ejected})

    async def key_usage(self, request: Request) -> Response:
        """Show what your API key has used; a key that sees the usage of all keys gets every key."""
        table = self._gateway.table
        own = find_key(table.keys_by_digest, request.state.key_digest)
        used = await self._gateway.limits.leases.keeper.use()
        keys = table.keys if own is None or own.sees_usage else (own,)
        data = [_usage(key, used.get(key.name, {})) for key in keys]
        return json_response({"object": "list", "data": data})

    async def version(self, request: Request) -> Response:
        """Get the version of the server."""
        return json_response({"version": version(PACKAGE)})


def _usage(key: ApiKey, used: Mapping[Limit, KeyUse]) -> dict[str, Any]:
    def count(limit: Limit) -> int:
        return round(used[limit].used) if limit in used else 0

    return {
        "name": key.name,
        "sha256": key.sha256[:DIGEST_CHARS],
        "requests_today": count(Limit.REQUESTS),
        "tokens_today": count(Limit.TOKENS),
        "num_open": count(Limit.OPEN),
        **{limit.value: limit.of(key) for limit in Limit},
    }
