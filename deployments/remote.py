"""A model behind a Serve handle, as the router sees it; foreign types and exceptions end here."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import asdict
from typing import Any, Protocol, cast

from grpc.aio import AioRpcError  # type: ignore[import-untyped]
from ray.exceptions import RayActorError, RayError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from deployments.replicas import Placement, ReplicaSet, replicas_of
from experts.engine.base import Call, Chunk
from experts.engine.base import Resumed as ResumedCall
from experts.errors import ContextLengthExceeded as PromptTooLong
from experts.errors import (
    EngineDead,
    ExpertsError,
    InvalidCall,
    RemoteBusy,
    RemoteUnavailable,
    TurnNotContinued,
)
from router.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelDied,
    ModelFailed,
    ModelOverloaded,
    ModelUnavailable,
    RouterError,
)
from router.model import Ask, Finish, Model, Piece

# What a handle raises. A TimeoutError is the far side's: our deadlines reach a stream as a cancellation.
FOREIGN = (RayError, RayServeException, AioRpcError, ExpertsError, TimeoutError)
# The replica, or the way to it, is gone; none of these says anything about the call itself.
DEAD = (EngineDead, RayActorError, AioRpcError)
GONE = (*DEAD, TaskCancelledError, DeploymentUnavailableError)


class Deployed(Model, Protocol):
    """A model whose replicas are known. To look at them starts nothing and sends nothing.

    A call with a `probe_id` goes to that replica; any other prefers those that are not suspect. A replica
    that fails or is leaving is made suspect, and whatever it produces clears it.
    """

    @property
    def replicas(self) -> ReplicaSet: ...


Connect = Callable[[str], Awaitable[Deployed]]


class RemoteModel:
    """Keeps the contract of `Deployed` over a `DeploymentHandle`."""

    def __init__(self, app: str, handle: DeploymentHandle[Any]) -> None:
        self._app = app
        self._replicas = replicas_of(app)
        # Configured once: every `.options()` starts a metrics pusher and a long poll of its own.
        self._generate = handle.options(method_name="generate", stream=True)

    @property
    def replicas(self) -> ReplicaSet:
        return self._replicas

    async def stream(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        self._replicas.began(ask.request_id)
        response: DeploymentResponseGenerator[Chunk] | None = None
        try:
            response = cast("DeploymentResponseGenerator[Chunk]", self._generate.remote(to_call(ask)))
            async for chunk in response:
                piece = to_piece(chunk)
                self._heard(piece, self._replicas.placement(ask.request_id))
                yield piece
        except asyncio.CancelledError as error:
            if _is_own_cancellation():
                raise
            # No suspect: Serve ends calls like this too, on this side, when the client left.
            raise ModelUnavailable(f"{self._app} gave the request up") from error
        except FOREIGN as error:
            raise self._failed(error, self._replicas.placement(ask.request_id)) from error
        finally:
            # Leaving the loop alone would let the replica write on; after a normal end this does nothing.
            # Where no replica took the call, Serve raises the reason a second time.
            with suppress(*FOREIGN):
                if response is not None:
                    response.cancel()
            self._replicas.ended(ask.request_id)

    def _heard(self, piece: Piece, placement: Placement) -> None:
        if piece.finish is Finish.CANCELLED:
            self._replicas.suspect(placement.replica, "it gives its calls up")
        else:
            self._replicas.answered(placement.replica)

    def _failed(self, error: Exception, placement: Placement) -> RouterError:
        failure = translate(self._app, error, placement)
        if isinstance(failure, ModelUnavailable) and not isinstance(failure, ModelOverloaded):
            self._replicas.suspect(placement.replica, type(error).__name__)
        return failure


def to_call(ask: Ask) -> Call:
    messages = ask.prompt.messages
    return Call(
        request_id=ask.request_id,
        messages=None if messages is None else tuple(asdict(message) for message in messages),
        text=ask.prompt.text,
        ids=ask.prompt.ids,
        written=ask.written,
        resumed=None if (own := ask.resumed) is None else ResumedCall(own.text, own.ids, own.tokenizer),
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
        num_tokens=len(chunk.token_ids) + chunk.num_unnamed_tokens,
        ids=chunk.token_ids,
        tokenizer=chunk.tokenizer,
        num_prompt_tokens=chunk.num_prompt_tokens,
        finish=None if chunk.finish is None else Finish(chunk.finish.value),
        expert=chunk.expert,
        probability=chunk.probability,
        distribution=chunk.distribution,
        queue_s=chunk.queue_s,
        prefill_s=chunk.prefill_s,
    )


def translate(app: str, error: Exception, placement: Placement) -> RouterError:
    """The router's word for what went wrong at `app` with a call that was placed so. The order matters: Ray
    raises engine errors as subclasses of both `RayTaskError` and the original."""
    if isinstance(error, PromptTooLong):
        return ContextLengthExceeded(error.message, error.param)
    if isinstance(error, InvalidCall):
        return InvalidRequest(error.message, error.param, error.code)
    if isinstance(error, BackPressureError):
        return ModelOverloaded(f"every queue of {app} is full; try again shortly")
    if isinstance(error, RemoteBusy):
        return ModelOverloaded(f"the server behind {app} takes no more calls at present; try again shortly")
    if isinstance(error, RemoteUnavailable):  # not a death: the replica is well, and so is the prompt
        return ModelUnavailable(f"the server behind {app} is not available")
    if isinstance(error, TurnNotContinued):
        return ModelFailed(f"the server behind {app} cannot go on in an answer that has begun")
    if isinstance(error, DEAD) and placement.replica is not None and placement.is_accepted:
        return ModelDied(f"a replica of {app} died with the request", placement.replica)
    if isinstance(error, GONE):
        return ModelUnavailable(f"{app} is not available")
    return ModelFailed(f"{app} failed while answering")


class Connections(Mapping[str, Deployed]):
    """The models this router has handles to, by application; `lost` hears of each that is found away."""

    def __init__(self, lost: Callable[[str], None]) -> None:
        self._models: dict[str, _Watched] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._lost = lost

    async def opened(self, app: str, connect: Connect) -> Deployed:
        """The way to the application, made once: a handle is not free, and outlives its replicas."""
        async with self._locks[app]:
            if app not in self._models:
                self._models[app] = _Watched(app, await connect(app), self._lost)
            return self._models[app]

    def one_asks(self, app: str) -> AbstractAsyncContextManager[None]:
        """Many routes may lead to one application; while the block runs, the others wait."""
        return self._locks[app]

    def keep(self, apps: Collection[str]) -> None:
        """Let go of every other application."""
        self._models = {app: model for app, model in self._models.items() if app in apps}
        for app in [app for app, lock in self._locks.items() if app not in apps and not lock.locked()]:
            del self._locks[app]

    @property
    def open_calls(self) -> dict[str, int]:
        """How many calls are under way, by application."""
        return {app: model.num_open for app, model in self._models.items() if model.num_open}

    def __getitem__(self, app: str) -> Deployed:
        if app not in self._models:
            raise ModelUnavailable(f"{app} is not connected yet")
        return self._models[app]

    def __contains__(self, app: object) -> bool:
        return app in self._models  # Mapping's own waits for a KeyError

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)


class _Watched:
    """A model that tells when a call finds it away; one that is merely busy is not. Counts its calls."""

    def __init__(self, app: str, model: Deployed, lost: Callable[[str], None]) -> None:
        self.num_open = 0
        self.replicas = model.replicas
        self._app = app
        self._model = model
        self._lost = lost

    async def stream(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        self.num_open += 1
        try:
            async with aclosing(self._model.stream(ask)) as pieces:
                async for piece in pieces:
                    yield piece
        except ModelOverloaded:
            raise
        except ModelUnavailable:
            self._lost(self._app)
            raise
        finally:
            self.num_open -= 1


def _is_own_cancellation() -> bool:
    """Serve re-raises the cancellation of a replica's task here, where nobody cancelled anything."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
