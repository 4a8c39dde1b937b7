"""Program: chats with a model, called as a router calls it, with affine and random routing in turn.

Prints every round as a line of JSON. In a round, all chats begin at once. No chat is repeated.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import string
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import ray

from deployments.remote import RemoteModel
from deployments.router import connect
from router.model_port import ModelRequest
from router.prompt import Message, Prompt
from router.sampling import Sampling

APP = "meta"
AFFINE, RANDOM = "affine", "random"
WARM_CHATS = 8
NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True)
class ChatShape:
    """Lengths are in characters; a token of these models is one character."""

    num_turns: int = 6
    first_length: int = 600
    later_length: int = 150
    answer_length: int = 32


@dataclass(frozen=True, slots=True)
class Turn:
    """`stayed`: it went to the same replica as the turn before. `cached_share`: the part of its prompt that
    this replica had read or written before (and may have in its cache)."""

    ttft_ms: float
    prefill_ms: float
    stayed: bool
    cached_share: float


@dataclass(frozen=True, slots=True)
class Round:
    num_chats: int
    think_s: float
    tokens_per_s: float
    later_turns: list[Turn]


async def main(
    address: str, num_chats: list[int], think_s: list[float], num_rounds: int, shape: ChatShape
) -> None:
    ray.init(address=address, namespace="serve", log_to_driver=False)
    model = await connect(APP)
    await _round(model, WARM_CHATS, 0.0, shape)
    for number, case in itertools.product(range(num_rounds), itertools.product(num_chats, think_s)):
        for routing in (AFFINE, RANDOM) if number % 2 else (RANDOM, AFFINE):
            with _routing(routing, model):
                measured = await _round(model, *case, shape)
            print(json.dumps({"routing": routing, **asdict(measured)}), flush=True)


@contextmanager
def _routing(routing: str, model: RemoteModel) -> Iterator[None]:
    """Switch affinity off for RANDOM. There is no setting for it: replicas with a prefix cache have
    affinity."""

    async def no_replica(_: Any) -> None: ...

    handle: Any = model._generate
    router = handle._router._asyncio_router.request_router
    affine_replica = router._affine_replica
    router._affine_replica = affine_replica if routing == AFFINE else no_replica
    try:
        yield
    finally:
        router._affine_replica = affine_replica


async def _round(model: RemoteModel, num_chats: int, think_s: float, shape: ChatShape) -> Round:
    began_s = time.perf_counter()
    chats = await asyncio.gather(*(_chat(model, think_s, shape) for _ in range(num_chats)))
    took_s = time.perf_counter() - began_s
    num_tokens = num_chats * shape.num_turns * shape.answer_length
    return Round(num_chats, think_s, num_tokens / took_s, [turn for chat in chats for turn in chat[1:]])


async def _chat(model: RemoteModel, think_s: float, shape: ChatShape) -> list[Turn]:
    letters = random.Random(next(NUMBERS))
    messages: list[Message] = []
    turns: list[Turn] = []
    last: str | None = None
    num_known: dict[str | None, int] = {}
    for number in range(shape.num_turns):
        length = shape.later_length if number else shape.first_length
        await asyncio.sleep(think_s * letters.uniform(0.0, 2.0))
        messages.append(Message("user", "".join(letters.choices(string.ascii_lowercase, k=length))))
        request = ModelRequest(
            request_id=f"{next(NUMBERS)}",
            prompt=Prompt(messages=tuple(messages)),
            sampling=Sampling(temperature=0.0),
            max_tokens=shape.answer_length,
        )
        length = sum(len(message.content) for message in messages)
        text, ttft_s, prefill_s = await _answer(model, request)
        messages.append(Message("assistant", text))
        replica = model.replicas.calls.find(request.request_id).replica
        turns.append(
            Turn(1000 * ttft_s, 1000 * prefill_s, replica == last, num_known.get(replica, 0) / length)
        )
        last, num_known[replica] = replica, length + len(text)
    return turns


async def _answer(model: RemoteModel, request: ModelRequest) -> tuple[str, float, float]:
    began_s, first_s, text, num_tokens, prefill_s = time.perf_counter(), 0.0, "", 0, 0.0
    async with aclosing(model.stream(request)) as chunks:
        async for chunk in chunks:
            if chunk.num_tokens and not first_s:
                first_s = time.perf_counter() - began_s
            prefill_s += chunk.prefill_s  # the first chunk has it
            text += chunk.text
            num_tokens += chunk.num_tokens
    assert num_tokens == request.max_tokens, f"an answer ended after {num_tokens} tokens"
    return text, first_s, prefill_s


if __name__ == "__main__":
    settings: dict[str, Any] = json.loads(sys.argv[2])
    asyncio.run(main(sys.argv[1], shape=ChatShape(**settings.pop("shape")), **settings))
