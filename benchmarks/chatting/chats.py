"""Run as a program: chats with a model as a router calls it, with either choice of replicas in turn.

Every round is a line of JSON on standard output. In each, all chats begin at once; no chat comes twice.
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
from router.model import Ask, Message, Prompt, Sampling

APP = "meta"
HOME, DRAWN = "home", "drawn"
WARM_CHATS = 8
NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True)
class Shape:
    """Lengths are in characters, which are the tokens of these models."""

    num_turns: int = 6
    first_length: int = 600
    later_length: int = 150
    answer_length: int = 32


@dataclass(frozen=True, slots=True)
class Turn:
    """`stayed`: it went to the replica that had the turn before. `known`: the part of its prompt that the
    replica had read or written already, as long as its cache holds that."""

    ttft_ms: float
    prefill_ms: float
    stayed: bool
    known: float


@dataclass(frozen=True, slots=True)
class Round:
    num_chats: int
    think_s: float
    tokens_per_s: float
    later_turns: list[Turn]


async def main(
    address: str, num_chats: list[int], think_s: list[float], num_rounds: int, shape: Shape
) -> None:
    ray.init(address=address, namespace="serve", log_to_driver=False)
    model = await connect(APP)
    await _round(model, WARM_CHATS, 0.0, shape)
    for number, case in itertools.product(range(num_rounds), itertools.product(num_chats, think_s)):
        for way in (HOME, DRAWN) if number % 2 else (DRAWN, HOME):
            with _choosing(way, model):
                found = await _round(model, *case, shape)
            print(json.dumps({"way": way, **asdict(found)}), flush=True)


@contextmanager
def _choosing(way: str, model: RemoteModel) -> Iterator[None]:
    """Replicas that keep no prefixes are drawn. These keep them, and no setting makes them be drawn."""

    async def nowhere(_: Any) -> None: ...

    handle: Any = model._generate
    router = handle._router._asyncio_router.request_router
    home = router._home
    router._home = home if way == HOME else nowhere
    try:
        yield
    finally:
        router._home = home


async def _round(model: RemoteModel, num_chats: int, think_s: float, shape: Shape) -> Round:
    began_s = time.perf_counter()
    chats = await asyncio.gather(*(_chat(model, think_s, shape) for _ in range(num_chats)))
    took_s = time.perf_counter() - began_s
    num_tokens = num_chats * shape.num_turns * shape.answer_length
    return Round(num_chats, think_s, num_tokens / took_s, [turn for chat in chats for turn in chat[1:]])


async def _chat(model: RemoteModel, think_s: float, shape: Shape) -> list[Turn]:
    letters = random.Random(next(NUMBERS))
    messages: list[Message] = []
    turns: list[Turn] = []
    last: str | None = None
    known: dict[str | None, int] = {}
    for number in range(shape.num_turns):
        length = shape.later_length if number else shape.first_length
        await asyncio.sleep(think_s * letters.uniform(0.0, 2.0))
        messages.append(Message("user", "".join(letters.choices(string.ascii_lowercase, k=length))))
        ask = Ask(
            request_id=f"{next(NUMBERS)}",
            prompt=Prompt(messages=tuple(messages)),
            sampling=Sampling(temperature=0.0),
            max_tokens=shape.answer_length,
        )
        length = sum(len(message.content) for message in messages)
        text, ttft_s, prefill_s = await _answer(model, ask)
        messages.append(Message("assistant", text))
        replica = model.replicas.placement(ask.request_id).replica
        turns.append(Turn(1000 * ttft_s, 1000 * prefill_s, replica == last, known.get(replica, 0) / length))
        last, known[replica] = replica, length + len(text)
    return turns


async def _answer(model: RemoteModel, ask: Ask) -> tuple[str, float, float]:
    began_s, first, text, num_tokens, prefill_s = time.perf_counter(), 0.0, "", 0, 0.0
    async with aclosing(model.stream(ask)) as pieces:
        async for piece in pieces:
            if piece.num_tokens and not first:
                first = time.perf_counter() - began_s
            prefill_s += piece.prefill_s  # the first has it, with or without text
            text += piece.text
            num_tokens += piece.num_tokens
    assert num_tokens == ask.max_tokens, f"an answer ended after {num_tokens} tokens"
    return text, first, prefill_s


if __name__ == "__main__":
    settings: dict[str, Any] = json.loads(sys.argv[2])
    asyncio.run(main(sys.argv[1], shape=Shape(**settings.pop("shape")), **settings))
