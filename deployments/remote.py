"""A model behind a Serve handle, as the router sees it; types and errors of Serve and `experts` end here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any, Protocol, cast

from grpc.aio import AioRpcError  # type: ignore[import-untyped]
from ray.exceptions import RayActorError, RayError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from deployments.replicas.call_placements import CallPlacement
from deployments.replicas.replica_set import ReplicaSet, replicas_of
from deployments.replicas.wire import to_engine_request, to_model_chunk
from deployments.replicas.wire_format import Message, Sent, unpack_chunk
from experts.errors import (
    AdapterFailed,
    EngineDead,
    ExpertsError,
    InvalidCall,
    OtherRelease,
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
    RequestError,
    RouterError,
)
from router.model_port import Model, ModelChunk, ModelRequest

# What a handle raises. A TimeoutError is the replica's: our own deadlines reach a stream as a cancellation.
FOREIGN = (RayError, RayServeException, AioRpcError, ExpertsError, TimeoutError)
# The replica or the connection to it is gone. None of these says anything about the call itself.
DEAD = (EngineDead, RayActorError, AioRpcError)


class Deployed(Model, Protocol):
    """A model whose replicas are known.

    A call with the id of a directed probe goes to that replica; any other call prefers replicas that are not
    ejected. Reading `replicas` starts nothing and sends nothing.
    """

    # Called when a call finds a replica, or all of them, unavailable; not when they are merely busy.
    on_unavailable: Callable[[], None]

    @property
    def replicas(self) -> ReplicaSet: ...


class RemoteModel:
    """Keeps the contract of `Deployed` over a `DeploymentHandle`."""

    def __init__(self, app: str, handle: DeploymentHandle[Any]) -> None:
        self.on_unavailable: Callable[[], None] = lambda: None
        self._app = app
        self._replicas = replicas_of(app)
        # Configured once: every `.options()` starts its own metrics pusher and long poll. Cloudpickle,
        # Serve's default, takes three times as long for each chunk, and these types do not need it.
        self._generate = handle.options(
            method_name="generate",
            stream=True,
            request_serialization="pickle",
            response_serialization="pickle",
        )

    @property
    def replicas(self) -> ReplicaSet:
        return self._replicas

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        request_id, adapter = request.request_id, request.adapter
        self._replicas.calls.began(request_id, adapter)
        response: DeploymentResponseGenerator[Message] | None = None
        try:
            response = cast(
                "DeploymentResponseGenerator[Message]",
                self._generate.remote(Sent(to_engine_request(request))),
            )
            async for message in response:
                chunk = to_model_chunk(unpack_chunk(message))
                if request.runs_model:
                    self._replicas.call_produced(request_id, adapter, chunk.finish)
                yield chunk
        except asyncio.CancelledError as error:
            if _is_own_cancellation():
                raise
            # The replica is not ejected: Serve also ends calls like this, on this side, when the client left.
            self.on_unavailable()
            raise ModelUnavailable(f"{self._app} cancelled the request") from error
        except FOREIGN as error:
            raise self._failed(error, request) from error
        finally:
            # If no replica took the call, Serve raises the reason a second time.
            with suppress(*FOREIGN):
                if response is not None:
                    _cancel(response)
            self._replicas.calls.ended(request_id, adapter)

    def _failed(self, error: Exception, request: ModelRequest) -> RouterError:
        placement = self._replicas.calls.find(request.request_id)
        failure = translate(self._app, error, placement)
        self._replicas.call_failed(request.request_id, request.adapter, failure, type(error).__name__)
        if isinstance(failure, ModelUnavailable) and not isinstance(failure, ModelOverloaded):
            self.on_unavailable()
        return failure


def translate(app: str, error: Exception, placement: CallPlacement) -> RouterError:
    """The router's error for what a call of `app` raised, given where the call was placed."""
    if isinstance(error, DEAD) and placement.replica is not None and placement.is_accepted:
        return ModelDied(f"a replica of {app} died with the request", placement.replica)
    for kinds, failure, template in _TRANSLATIONS:
        if isinstance(error, kinds):
            message = template.format(app=app, error=error)
            if isinstance(error, InvalidCall) and issubclass(failure, RequestError):
                return failure(message, error.param, error.code)
            return failure(message)
    return ModelFailed(f"{app} failed while answering")


# The first row that fits decides, so a subclass stands before its base. Engine errors come first, because Ray
# raises them as subclasses of both the original and `RayTaskError`. What no row names becomes `ModelFailed`.
_TRANSLATIONS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], type[RouterError], str], ...] = (
    (PromptTooLong, ContextLengthExceeded, "{error.message}"),
    # The adapter may be on its way to the replica, or be on another replica.
    (UnknownAdapter, AdapterMissing, "a replica of {app} does not serve '{error.name}' yet"),
    (AdapterFailed, AdapterBroken, "{app} cannot load the adapter of one of its experts; see `etr status`"),
    (InvalidCall, InvalidRequest, "{error.message}"),
    (RemoteBusy, ModelOverloaded, "the server behind {app} takes no more calls at present; retry shortly"),
    (
        OtherRelease,
        ModelUnavailable,
        "{app} and this router are of releases that cannot read each other: {error}; finish the upgrade",
    ),
    # Not a death: replica and prompt are fine.
    (RemoteUnavailable, ModelUnavailable, "the server behind {app} is not available"),
    (TurnNotContinued, ModelFailed, "the server behind {app} cannot continue a started answer"),
    (BackPressureError, ModelOverloaded, "every queue of {app} is full; retry shortly"),
    ((*DEAD, TaskCancelledError, DeploymentUnavailableError), ModelUnavailable, "{app} is not available"),
)


def _cancel(response: DeploymentResponseGenerator[Message]) -> None:
    """Stops the replica from generating on for a caller that left; does nothing after a normal end."""
    response.cancel()
    # A private attribute, because Serve does not cancel a call that is given up in the very moment a replica
    # takes it: its response has not seen that yet. The call would stay open forever.
    accepted = response._replica_result_future
    if accepted.done() and not accepted.cancelled() and accepted.exception() is None:
        accepted.result().cancel()


def _is_own_cancellation() -> bool:
    """Serve re-raises here the cancellation of a replica's task, although this task was not cancelled."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
