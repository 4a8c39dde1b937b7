"""Serve's REST API with a router behind it, as one server that keeps its state."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any

from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

TRACEBACK = (
    "The deployment failed to start 3 times in a row. Error:\n"
    "Traceback (most recent call last):\n"
    '  File "model.py", line 1, in load\n'
    "experts.errors.ModelLoadError: models/roman: no weights; copy them there\n"
)


class FakeServe:
    """Serve as its REST API shows it: PUT replaces everything, and time passes with each GET.

    An application whose code (import path, arguments, actor options) changed gets a new process. One that a
    PUT does not name is DELETING until it has finished its answers. The router answers at the same port.

    Attributes:
        failing: applications that end in DEPLOY_FAILED; the same config does not make Serve try again.
        stuck: applications that stay DEPLOYING.
        lingering: applications that never finish their answers.
        broken_adapters: why a pool cannot load an adapter.
        still_serving: broken adapters of which an older version is loaded.
        slow_adapters: how many polls it takes to load an adapter.
        key: an API key that the router requires for /stats.
        token: the dashboard's token, if it requires one.
    """

    def __init__(self) -> None:
        self.apps: dict[str, dict[str, Any]] = {}
        self.http_options: dict[str, Any] | None = None
        self.failing: set[str] = set()
        self.stuck: set[str] = set()
        self.lingering: set[str] = set()
        self.broken_adapters: dict[str, str] = {}
        self.still_serving: set[str] = set()
        self.slow_adapters: dict[str, int] = {}
        self.key: str | None = None
        self.name = "generalist"
        self.token: str | None = None
        self.puts: list[dict[str, Any]] = []
        self.num_polls = 0
        self._pids = itertools.count(1000)

    @property
    def num_puts(self) -> int:
        return len(self.puts)

    async def applications(self, request: Request) -> Response:
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return PlainTextResponse("no token", 401)
        if request.method == "PUT":
            return await self._put(request)
        for name, app in list(self.apps.items()):
            self._advance(app)
            if app["status"] == "DELETING" and app["num_polls"] > 2 and name not in self.lingering:
                del self.apps[name]
        return JSONResponse(
            {"applications": copy.deepcopy(self.apps), "http_options": self.http_options, "proxies": {}}
        )

    async def health(self, request: Request) -> Response:
        router = self._table()
        if router is None or self.apps["meta"]["status"] != "RUNNING":
            return JSONResponse({"status": "unavailable"}, 503)
        self.num_polls += 1
        experts = {}
        for name, entry in router["experts"].items():
            ready = self.apps[entry["app"]]["status"] == "RUNNING" and self.num_polls > 1
            experts[name] = "ready" if ready else "masked"
            if ready and name in self.broken_adapters.keys() - self.still_serving:
                experts[name] = "failed"
        return JSONResponse({"status": "ok", "table_version": router["table_version"], "experts": experts})

    async def stats(self, request: Request) -> Response:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "no key"}}, 401)
        table = self._table()
        assert table is not None
        loads = {name: self._load(name, entry["app"]) for name, entry in table["experts"].items()}
        body = {"table_version": table["table_version"], "models": loads}
        return JSONResponse({**body, "admission": {}, "ejected": {}})

    def _load(self, name: str, app: str) -> dict[str, Any]:
        (deployment,) = self.apps[app]["deployed_app_config"]["deployments"]
        source = (deployment["user_config"].get("adapters") or {}).get(name)
        adapters: dict[str, Any] = {}
        if source:
            wanted, error = source.get("digest") or source["source"], self.broken_adapters.get(name, "")
            self.slow_adapters[name] = late = max(0, self.slow_adapters.get(name, 0) - 1)
            version = None if error or late else wanted
            counts = {"num_running": 0, "num_tokens": 0}
            adapters[name] = {"wanted": wanted, "version": version, "error": error, **counts}
        replica = {"replica": "r", "time_s": 0.0, "num_running": 0, "num_waiting": 0, "num_tokens": 0}
        replicas = [{**replica, "cache_use": 0.0, "adapters": adapters}]
        return {"num_running": 0, "num_queued": 0, "num_tokens": 0, "replicas": replicas}

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": []})

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        if body.get("model", self.name) != self.name:
            return JSONResponse({"error": {"message": f"model '{body['model']}' does not exist"}}, 404)
        parts = [("meta", "Hello! "), ("roman", "X"), ("roman", "IV")]
        trace = body.get("routing", {}).get("trace", False)
        events = [
            {"choices": [{"delta": {"content": text}}], **({"routing": {"model": who}} if trace else {})}
            for who, text in parts
        ]
        last = [] if "broken" in body["messages"][0]["content"] else ["[DONE]"]
        lines = [f"data: {text}\n\n" for text in [*map(json.dumps, events), *last]]
        return StreamingResponse(iter(lines), media_type="text/event-stream")

    def pid(self, app: str) -> int:
        return int(self.apps[app]["deployments"]["Model"]["replicas"][0]["pid"])

    def table_version(self, app: str) -> int:
        (deployment,) = self.apps[app]["deployed_app_config"]["deployments"]
        return int(deployment["user_config"]["table_version"])

    async def _put(self, request: Request) -> Response:
        config = await request.json()
        try:
            ServeDeploySchema.model_validate(copy.deepcopy(config))
        except ValidationError as error:
            return PlainTextResponse(repr(error), 400)
        self.puts.append(config)
        self.num_polls = 0
        self.http_options = self.http_options or config["http_options"]
        named = {app["name"]: self._deploy(app) for app in config["applications"]}
        for name, app in self.apps.items():
            if name not in named:
                self.apps[name] = app | {"status": "DELETING", "deployed_app_config": None, "num_polls": 0}
        self.apps = self.apps | named
        return Response()

    def _deploy(self, config: dict[str, Any]) -> dict[str, Any]:
        old = self.apps.get(config["name"])
        known = old["deployed_app_config"] if old else None
        same = known and self._code(known) == self._code(config)
        deployments = {one["name"]: self._deployment(one) for one in config["deployments"]}
        if old and same:
            for name, deployment in deployments.items():
                kept = old["deployments"][name]["replicas"]
                wanted = deployment["target_num_replicas"]
                deployment["replicas"] = (kept + [{"state": "STARTING"}] * wanted)[:wanted]
        return {
            "status": "DEPLOYING",
            "message": "",
            "deployments": deployments,
            "deployed_app_config": config,
            "num_polls": 0,
            "is_given_up": bool(old and old["status"] == "DEPLOY_FAILED" and known == config),
        }

    def _deployment(self, config: dict[str, Any]) -> dict[str, Any]:
        replica = {"state": "STARTING"}  # no process yet
        wanted = config["autoscaling_config"]["min_replicas"]
        return {"message": "", "target_num_replicas": wanted, "replicas": [replica] * wanted}

    def _code(self, config: dict[str, Any]) -> Any:
        return config["import_path"], config["args"], [d["ray_actor_options"] for d in config["deployments"]]

    def _advance(self, app: dict[str, Any]) -> None:
        app["num_polls"] += 1
        if app["num_polls"] < 2 or app["status"] in ("DELETING", "DEPLOY_FAILED"):
            return
        name = app["deployed_app_config"]["name"]
        if name in self.stuck:
            return
        fails = name in self.failing or app["is_given_up"]
        app["status"] = "DEPLOY_FAILED" if fails else "RUNNING"
        for deployment in app["deployments"].values():
            if fails:
                deployment["message"] = TRACEBACK
                app["message"] = "Failed to update the deployments ['Model']."
            else:
                deployment["replicas"] = [
                    {"pid": next(self._pids), "node_ip": "10.0.0.1", **one, "state": "RUNNING"}
                    for one in deployment["replicas"]
                ]

    def _table(self) -> dict[str, Any] | None:
        router = self.apps.get("router")
        if router is None or router["status"] != "RUNNING":
            return None
        table: dict[str, Any] = router["deployed_app_config"]["deployments"][0]["user_config"]
        return table
