"""Builders of the Serve applications. Serve validates the `args` of its config into their one argument."""

# No `from __future__ import annotations` here: Serve reads the builders' annotations at run time, and would
# pass a plain dict if one were a string.

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
from experts.engine.config import EmbeddingConfig, EngineConfig, ModelSource, OpenAIConfig
from experts.engine.factory import make_embedding_engine, make_engine

ROUTER_DEPLOYMENT = "Router"
MODEL_NICENESS = 10  # added to that of every process that Ray starts


class Args(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelArgs(Args):
    """What cannot change while a model serves. What can is in `user_config` (`ModelSettings`)."""

    name: str
    model: ModelSource
    engine: EngineConfig


class EmbedderArgs(Args):
    name: str
    model: ModelSource
    engine: EmbeddingConfig


class RemoteArgs(Args):
    name: str
    remote: OpenAIConfig


class RouterArgs(Args):
    max_body_bytes: int = Field(1_048_576, ge=1024)


def build_model(args: ModelArgs) -> Application:
    return model_app(LoadedModelServer, args.model_dump(mode="json"))


def build_embedder(args: EmbedderArgs) -> Application:
    return model_app(EmbeddingServer, args.model_dump(mode="json"))


def build_remote(args: RemoteArgs) -> Application:
    return model_app(RemoteModelServer, args.model_dump(mode="json"))


def build_remote_embedder(args: RemoteArgs) -> Application:
    return model_app(RemoteEmbeddingServer, args.model_dump(mode="json"))


def build_router(args: RouterArgs) -> Application:
    ingress: type[ServedRouter] = serve.ingress()(ServedRouter)
    return serve.deployment(name=ROUTER_DEPLOYMENT)(ingress).bind(args.max_body_bytes)


class LoadedModelServer(ModelServer):
    """Loads its engine in the replica, so that weights are never sent between processes."""

    def __init__(self, raw: dict[str, Any]) -> None:
        # A model that computes on the CPUs that also run the router must yield to it: a refusal that takes
        # the router a millisecond took seconds. The engine's threads and processes inherit the niceness.
        os.nice(MODEL_NICENESS)
        args = ModelArgs.model_validate(raw)
        engine = make_engine(args.model, args.engine)
        set_up_logs()  # last, because the engine's libraries set up their own logs
        super().__init__(engine)

    async def __del__(self) -> None:  # Serve awaits it when it stops a replica; the interpreter would not
        await self.close()


class EmbeddingServer(ModelServer):
    """Loads a model that only embeds."""

    def __init__(self, raw: dict[str, Any]) -> None:
        os.nice(MODEL_NICENESS)
        args = EmbedderArgs.model_validate(raw)
        engine = make_embedding_engine(args.model, args.engine)
        set_up_logs()
        super().__init__(engine)

    async def __del__(self) -> None:
        await self.close()


class RemoteModelServer(ModelServer):
    """Represents a model behind a URL. Needs few resources, because it only passes text on."""

    def __init__(self, raw: dict[str, Any]) -> None:
        from experts.engine.openai.engine import OpenAIEngine

        set_up_logs()
        args = RemoteArgs.model_validate(raw)
        super().__init__(OpenAIEngine(args.name, args.remote))

    async def __del__(self) -> None:
        await self.close()


class RemoteEmbeddingServer(ModelServer):
    """The same for a model that only embeds."""

    def __init__(self, raw: dict[str, Any]) -> None:
        from experts.engine.openai.embedding import OpenAIEmbeddingEngine

        set_up_logs()
        args = RemoteArgs.model_validate(raw)
        super().__init__(OpenAIEmbeddingEngine(args.name, args.remote))

    async def __del__(self) -> None:
        await self.close()


class ServedRouter(Router):
    def __init__(self, max_body_bytes: int, connect_model: Connect | None = None) -> None:
        set_up_logs()
        super().__init__(max_body_bytes, connect_model)

    async def __del__(self) -> None:
        await self.close()
