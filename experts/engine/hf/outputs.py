"""The outputs of one request in a continuous batch, from its submission to its end."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator

from transformers.generation.continuous_batching import ContinuousBatchingManager
from transformers.generation.continuous_batching.requests import GenerationOutput

from experts.engine.hf.request import RunningRequest
from experts.errors import EngineDead


async def stream_outputs(
    name: str, manager: ContinuousBatchingManager, request_id: str, running: RunningRequest
) -> AsyncGenerator[GenerationOutput, None]:
    """The newest output each time, because every output has all tokens so far. Closing the generator cancels
    the request.

    Raises:
        EngineDead: the generation loop of the model `name` accepts no requests.
    """
    outputs: asyncio.Queue[GenerationOutput] = asyncio.Queue()
    is_finished = False
    try:
        _submit(name, manager, request_id, running, outputs)
        while not is_finished:
            output = await outputs.get()
            while not outputs.empty():
                output = outputs.get_nowait()
            is_finished = output.is_finished()
            yield output
    finally:
        if not is_finished:
            _cancel(manager, request_id)


def _submit(
    name: str,
    manager: ContinuousBatchingManager,
    request_id: str,
    running: RunningRequest,
    outputs: asyncio.Queue[GenerationOutput],
) -> None:
    # The manager would refuse the request too, but with a warning that contains ids of the prompt.
    if manager.background_thread_status.can_accept_new_requests() is not None:
        raise _not_accepting(name)
    manager.register_result_handler(request_id, outputs.put_nowait)
    accepted = manager.add_request(
        running.encoded.prompt,
        request_id=request_id,
        max_new_tokens=running.max_tokens,
        streaming=True,
        eos_token_id=list(running.end_ids),
    )
    if accepted is None:
        raise _not_accepting(name)


def _not_accepting(name: str) -> EngineDead:
    return EngineDead(f"{name}: the generation loop accepts no requests")


def _cancel(manager: ContinuousBatchingManager, request_id: str) -> None:
    manager.cancel_request(request_id)
    router = manager.output_router
    router.result_handlers.pop(request_id, None)
    # Outputs without a handler would pile up in this queue, which nothing else reads.
    while not router.output_queue.empty():
        try:
            router.output_queue.get_nowait()
        except queue.Empty:
            break
