"""A model behind a Serve handle, as the router sees it; foreign types and exceptions end here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict
from typing import Any

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from experts.engine.base import Call, Chunk
from experts.errors import ContextLengthExceeded as PromptTooLong
from experts.errors import EngineDead, ExpertsError, InvalidCall
from router.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelFailed,
    ModelOverloaded,
    ModelUnavailable,
    RouterError,
)
from router.model import Ask, Finish, Piece


class RemoteModel:
    """Keeps the contract of `router.model.Model` over a `DeploymentHandle`."""

    def __init__(self, app: str, handle: DeploymentHandle[Any]) -> None:
        self._app = app
        # Configured once: every `.options()` starts a metrics pusher and a long poll of its own.
        self._generate = handle.options(method_name="generate", stream=True)

    async def stream(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        response = self._generate.remote(to_call(ask))
        assert isinstance(response, DeploymentResponseGenerator)
        try:
            async for chunk in response:
                yield to_piece(chunk)
        except (RayError, RayServeException, ExpertsError) as error:
            raise translate(self._app, error) from error
        finally:
            # Leaving the loop alone would let the replica write on; after a normal end this does nothing.
            response.cancel()


def to_call(ask: Ask) -> Call:
    messages = ask.prompt.messages
    return Call(
        request_id=ask.request_id,
        messages=None if messages is None else tuple(asdict(message) for message in messages),
        text=ask.prompt.text,
        ids=ask.prompt.ids,
        written=ask.written,
        position=ask.position,
        max_tokens=ask.max_tokens,
        temperature=ask.sampling.temperature,
        top_p=ask.sampling.top_p,
        top_k=ask.sampling.top_k,
        seed=ask.sampling.seed,
        allowed=ask.allowed,
        bias=ask.bias,
        only_at_start=ask.only_at_start,
        probe=ask.probe,
    )


def to_piece(chunk: Chunk) -> Piece:
    return Piece(
        text=chunk.text,
        num_tokens=len(chunk.token_ids),
        num_prompt_tokens=chunk.num_prompt_tokens,
        finish=None if chunk.finish is None else Finish(chunk.finish.value),
        expert=chunk.expert,
        probability=chunk.probability,
        distribution=chunk.distribution,
    )


def translate(app: str, error: Exception) -> RouterError:
    """The router's word for what went wrong at `app`. The order matters: Ray raises engine errors as
    subclasses of both `RayTaskError` and the original."""
    if isinstance(error, PromptTooLong):
        return ContextLengthExceeded(error.message, error.param)
    if isinstance(error, InvalidCall):
        return InvalidRequest(error.message, error.param, error.code)
    if isinstance(error, BackPressureError):
        return ModelOverloaded(f"every queue of {app} is full; try again shortly")
    if isinstance(error, EngineDead | RayActorError | DeploymentUnavailableError):
        return ModelUnavailable(f"{app} is not available")
    return ModelFailed(f"{app} failed while answering")


class Connections(Mapping[str, RemoteModel]):
    """The models this router has handles to, by application."""

    def __init__(self) -> None:
        self._models: dict[str, RemoteModel] = {}

    def add(self, app: str, model: RemoteModel) -> None:
        self._models[app] = model

    def __getitem__(self, app: str) -> RemoteModel:
        if app not in self._models:
            raise ModelUnavailable(f"{app} is not connected yet")
        return self._models[app]

    def __iter__(self) -> Any:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)
