"""A model behind a Serve handle, as the router sees it; foreign types and exceptions end here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Protocol, cast

from grpc.aio import AioRpcError  # type: ignore[import-untyped]
from ray.exceptions import RayActorError, RayError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from deployments.adapter_replicas import AdapterReplicas
from deployments.replicas import Placement, ReplicaSet, replicas_of
from experts.engine.base import Call, Chunk
from experts.engine.base import Resumed as ResumedCall
from experts.errors import (
    AdapterFailed,
    EngineDead,
    ExpertsError,
    InvalidCall,
    RemoteBusy,
    RemoteUnavailable,
    TurnNotContinued,
    UnknownAdapter,
)
from experts.errors import ContextLengthExceeded as PromptTooLong
from router.errors import (
    AdapterBroken,
    AdapterMissing,
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
    that fails or is leaving is made suspect, and whatever it produces clears it. One that lacks an adapter is
    avoided for calls of that adapter alone.
    """

    @property
    def replicas(self) -> ReplicaSet: ...


class RemoteModel:
    """Keeps the contract of `Deployed` over a `DeploymentHandle`."""

    def __init__(self, app: str, handle: DeploymentHandle[Any]) -> None:
        self._app = app
        self._replicas = replicas_of(app)
        # Configured once: every `.options()` starts a metrics pusher and a long poll of its own. Cloudpickle,
        # Serve's default, takes three times as long for each chunk, and nothing here needs its powers.
        self._generate = handle.options(
            method_name="generate",
            stream=True,
            request_serialization="pickle",
            response_serialization="pickle",
        )

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
                self._heard(piece, ask)
                yield piece
        except asyncio.CancelledError as error:
            if _is_own_cancellation():
                raise
            # No suspect: Serve ends calls like this too, on this side, when the client left.
            raise ModelUnavailable(f"{self._app} gave the request up") from error
        except FOREIGN as error:
            raise self._failed(error, ask) from error
        finally:
            # Where no replica took the call, Serve raises the reason a second time.
            with suppress(*FOREIGN):
                if response is not None:
                    _cancel(response)
            self._replicas.ended(ask.request_id)

    def _heard(self, piece: Piece, ask: Ask) -> None:
        replica = self._replicas.placement(ask.request_id).replica
        if piece.finish is Finish.CANCELLED:
            self._replicas.suspect(replica, "it gives its calls up")
        else:
            self._replicas.for_calls_of(ask.adapter).answered(replica)

    def _failed(self, error: Exception, ask: Ask) -> RouterError:
        placement = self._replicas.placement(ask.request_id)
        failure = translate(self._app, error, placement)
        known = self._replicas.for_calls_of(ask.adapter)
        if isinstance(failure, AdapterMissing) and isinstance(known, AdapterReplicas):
            known.lacks(placement.replica, is_broken=isinstance(failure, AdapterBroken))
        elif isinstance(failure, ModelUnavailable) and not isinstance(failure, ModelOverloaded):
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
        adapter=ask.adapter,
        message_gap_s=ask.message_gap_s,
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
    if isinstance(error, UnknownAdapter):  # it may be on its way there, or be on another replica
        return AdapterMissing(f"a replica of {app} does not serve '{error.name}' yet")
    if isinstance(error, AdapterFailed):
        return AdapterBroken(f"{app} cannot load the adapter of one of its experts; see `etr status`")
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


def _cancel(response: DeploymentResponseGenerator[Chunk]) -> None:
    """Leaving its loop alone would let the replica write on; after a normal end this does nothing."""
    response.cancel()
    # Private, and yet: what is given up in the very moment a replica takes it, Serve's response has not seen
    # yet, and does not cancel. Nobody would read that call, and it would stay open for good.
    taken = response._replica_result_future
    if taken.done() and not taken.cancelled() and taken.exception() is None:
        taken.result().cancel()


def _is_own_cancellation() -> bool:
    """Serve re-raises the cancellation of a replica's task here, where nobody cancelled anything."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
