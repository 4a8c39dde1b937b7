"""What must hold for a family on an engine; each check compares the engine with Hugging Face's own code."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from jinja2 import TemplateError

from experts.engine.base import Engine
from experts.engine.chunk import FinishReason
from experts.engine.request import EngineRequest, Resumed
from experts.learn import Query, compute_states, learn_tokens
from experts.prompt import PromptRenderer
from tests.families.family import Family
from tests.families.plain import Messages, PlainModel, Written
from tests.support.engine_world import ids_of, text_of

QUESTION: Messages = ({"role": "user", "content": "What is the answer?"},)
CONVERSATION: Messages = (
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Hello. How are you?"},
    {"role": "user", "content": "สวัสดี 👩\u200d🚀 says: x = [1, 2]\n\n\tsort it"},
)
SYSTEM: Messages = ({"role": "system", "content": "Answer briefly."}, *QUESTION)
RAW = ("The answer is", "def sort(numbers):\n", "Hello! Write a list of numbers: 1 2 3", "ü 日本")
WRITTEN = ("The answer is", "Yes:\n\n1. นี่คือ 👩\u200d🚀 é")
EXPERTS = {"roman": "What is {} in Roman numerals?", "morse": "How do I spell {} in Morse code?"}


@dataclass(frozen=True)
class World:
    """One family on a running engine, beside the same checkpoint in Hugging Face's own hands."""

    family: Family
    engine: Engine
    plain: PlainModel

    async def run(self, max_tokens: int = 16, **options: Any) -> Any:
        settings = {"temperature": 0.0, "max_tokens": max_tokens, **options}
        return [chunk async for chunk in self.engine.generate(EngineRequest("r", **settings))]

    async def require(self, wanted: Written, prompt: Sequence[int], **options: Any) -> None:
        """The engine's answer to a request is `wanted`, and its prompt has as many tokens as `prompt`."""
        chunks = await self.run(**options)
        num_prompt_tokens, last = chunks[0].num_prompt_tokens, chunks[-1]
        found = (num_prompt_tokens, Written(tuple(ids_of(chunks)), last.finish, last.expert))
        assert found == (len(prompt), wanted), options
        assert text_of(chunks) == self.plain.text_after(prompt, wanted.ids), options


async def greedy(world: World) -> None:
    """Greedy answers, several at a time, equal `generate` on what the tokenizer's own template renders."""
    requests: list[tuple[list[int], dict[str, Any]]] = [
        *((world.plain.open_turn(messages), {"messages": messages}) for messages in (QUESTION, CONVERSATION)),
        *((world.plain.raw(text), {"text": text}) for text in RAW),
    ]
    wanted = [world.plain.generate(prompt, 24) for prompt, _ in requests]
    await asyncio.gather(
        *(
            world.require(answer, prompt, max_tokens=24, **options)
            for answer, (prompt, options) in zip(wanted, requests, strict=True)
        )
    )
    assert {answer.finish for answer in wanted[-len(RAW) :]} == {FinishReason.STOP, FinishReason.LENGTH}


async def system_message(world: World) -> bool:
    """Whether the template has a system role. If not, the message begins that of the user."""
    try:
        prompt, has_role = world.plain.open_turn(SYSTEM), True
    except TemplateError:
        text = "\n\n".join(message["content"] for message in SYSTEM)
        prompt, has_role = world.plain.open_turn(_question(text)), False
    await world.require(world.plain.generate(prompt, 16), prompt, messages=SYSTEM)
    assert "Answer briefly." in world.plain.tokenizer.decode(prompt)
    return has_role


async def hand_over(world: World) -> None:
    """An answer that another model began goes on as the template itself renders such a turn."""
    for messages in (QUESTION, CONVERSATION):
        for written in WRITTEN:
            prompt = world.plain.turn_with(messages, written)
            answer = world.plain.generate(prompt, 8)
            await world.require(answer, prompt, messages=messages, written=written, max_tokens=8)


async def resumption(world: World) -> None:
    """An answer whose replica was lost continues with the same tokens and text."""
    whole = await world.run(messages=QUESTION, written=WRITTEN[0])
    fingerprint = whole[0].tokenizer
    for end in (1, len(whole) // 2, len(whole) - 1):
        ids, text = tuple(ids_of(whole[:end])), text_of(whole[:end])
        resumed = Resumed(text, ids, fingerprint)
        rest = await world.run(16 - len(ids), messages=QUESTION, written=WRITTEN[0], resumed=resumed)
        assert (*ids, *ids_of(rest)) == tuple(ids_of(whole))
        assert text + text_of(rest) == text_of(whole)


async def control_tokens(world: World) -> None:
    """Text that spells control tokens is text: it adds none to the prompt, and it is not lost."""
    tokenizer = world.plain.tokenizer
    renderer = PromptRenderer(tokenizer)
    # Not those of blanks, which shape text.
    control = {
        i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip("▁\n")
    }
    names = list(control.values())
    spelled = " ".join([*names[:8], *names[-6:]])
    prompts = [renderer.chat([{"role": "user", "content": text}]) for text in (f"say {spelled} now", "say")]
    counts = [Counter(i for i in prompt if i in control) for prompt in prompts]
    assert counts[0] == counts[1]
    assert f"say {spelled} now" in tokenizer.decode(prompts[0])
    answer = world.plain.generate(prompts[0], 8)
    await world.require(answer, prompts[0], max_tokens=8, messages=_question(f"say {spelled} now"))


async def routing(world: World) -> None:
    """Learned tokens route as plain forward passes do, with the experts as rows of the head."""
    queries = [_query(f"{name} {i}", name, i) for name in EXPERTS for i in range(6)]
    queries += [_query(f"Hello number {i}", None, i) for i in range(6)]
    renderer = PromptRenderer(world.plain.tokenizer)
    states = compute_states(world.plain.model, renderer, queries)
    tokens = learn_tokens(states, queries, held_out_share=0.0).tokens
    await world.engine.install(1, tokens)
    allowed = tuple(EXPERTS)
    outcomes = []
    for i, text in enumerate(["roman 3", "morse 2", "Hello number 4", "roman 77", "morse 88", "Good night"]):
        messages = _question(_text(text, i))
        prompt = world.plain.open_turn(messages)
        wanted, first = world.plain.route(prompt, tokens, 6)
        await world.require(wanted, prompt, messages=messages, allowed=allowed, max_tokens=6)
        (probe,) = await world.run(messages=messages, allowed=allowed, probe=True)
        expected = {token.name: float(p) for token, p in zip(tokens, first, strict=True)}
        assert probe.distribution == pytest.approx(expected, rel=1e-2, abs=1e-4)
        outcomes.append(wanted.expert)
    assert outcomes[:2] == ["roman", "morse"]
    # At the first token alone: what random weights write after it depends on the processor's arithmetic.
    general = world.plain.open_turn(_question(_text("Hello number 4", 4)))
    assert world.plain.route(general, tokens, 1)[0].expert is None


def _text(text: str, number: int) -> str:
    name, _, word = text.partition(" ")
    return EXPERTS[name].format(word) if name in EXPERTS else text


def _question(text: str) -> Messages:
    return ({"role": "user", "content": text},)


def _query(text: str, expert: str | None, number: int) -> Query:
    answer = "" if expert else "Hello. How are you?"
    return Query(tuple(_question(_text(text, number))), expert, answer, place=f"line {number}")


CHECKS: dict[str, Callable[[World], Awaitable[bool | None]]] = {
    "greedy": greedy,
    "system": system_message,
    "hand-over": hand_over,
    "resumption": resumption,
    "control tokens": control_tokens,
    "routing": routing,
}
