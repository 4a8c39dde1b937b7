"""Typed builders, one Serve application each; Serve validates a config's `args` into their one argument."""

# No `from __future__ import annotations` here: Serve reads the builders' annotations as they stand, and would
# pass a plain dict for one that is a string.

import os
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application

from deployments.connections import Connect
from deployments.logs import set_up_logs
from deployments.model import ModelServer
from deployments.model_app import model_app
from deployments.router import Router
from experts.engine.config import EngineConfig, ModelSource, OpenAIConfig
from experts.engine.make import make_engine

ROUTER_DEPLOYMENT = "Router"
MODEL_NICENESS = 10  # beyond that of every process that Ray starts


class Args(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelArgs(Args):
    """What cannot change while a model serves; what can travels in `user_config`."""

    name: str
    model: ModelSource
    engine: EngineConfig


class RemoteArgs(Args):
    name: str
    remote: OpenAIConfig


class RouterArgs(Args):
    max_body_bytes: int = Field(1_048_576, ge=1024)


def build_model(args: ModelArgs) -> Application:
    return model_app(LoadedModelServer, args.model_dump(mode="json"))


def build_remote(args: RemoteArgs) -> Application:
    return model_app(RemoteModelServer, args.model_dump(mode="json"))


def build_router(args: RouterArgs) -> Application:
    ingress: type[ServedRouter] = serve.ingress()(ServedRouter)
    return serve.deployment(name=ROUTER_DEPLOYMENT)(ingress).bind(args.max_body_bytes)


class LoadedModelServer(ModelServer):
    """Loads its engine in the replica: weights never travel."""

    def __init__(self, raw: dict[str, Any]) -> None:
        # Where a model computes on the CPUs that relay its answers, those who relay go first: a refusal that
        # takes them a millisecond took seconds. Threads and processes of the engine inherit it.
        os.nice(MODEL_NICENESS)
        args = ModelArgs.model_validate(raw)
        engine = make_engine(args.model, args.engine)
        set_up_logs()  # after that: the engines' libraries set up their own
        super().__init__(engine)

    async def __del__(self) -> None:  # Serve awaits it when it ends a replica; the interpreter would not
        await self.close()


class RemoteModelServer(ModelServer):
    """Stands in for a model that others serve; small, for it only passes text on."""

    def __init__(self, raw: dict[str, Any]) -> None:
        from experts.engine.openai import OpenAIEngine

        set_up_logs()
        args = RemoteArgs.model_validate(raw)
        super().__init__(OpenAIEngine(args.name, args.remote))

    async def __del__(self) -> None:
        await self.close()


class ServedRouter(Router):
    def __init__(self, max_body_bytes: int, open_way: Connect | None = None) -> None:
        set_up_logs()
        super().__init__(max_body_bytes, open_way)

    async def __del__(self) -> None:
        await self.close()
