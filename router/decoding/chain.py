"""A chain: several experts write one answer, one after another, each with the last answer before it.

    META --expert token--> EXPERT 1 --end of turn--> META decides --"good enough", or no expert wins--> done
                                                          |  ^
                                         another expert   v  | end of turn
                                                       EXPERT 2, asked by `chain.prompt`

An answer that may still be written anew is held back: the client gets the last one. If a later expert does
not come to the end of its answer, for whatever reason, the answer before it stands. Every expert writes once
at most, so a chain ends.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace

from router.availability import ModelAvailability
from router.chain_rules import CHAIN_STOP
from router.decoding.delta import Delta, PromptDelta, ReasoningDelta, TextDelta
from router.decoding.generation import Done, GenerationRequest, GenerationState
from router.decoding.policy import Target, is_left_to_meta
from router.decoding.request_builder import RequestBuilder
from router.decoding.transcript import Transcript
from router.errors import RouterError
from router.model_port import Finish, ModelChunk
from router.table import META, RouteTable

Write = Callable[[GenerationRequest, GenerationState], AsyncGenerator[Delta | Done, None]]
Probe = Callable[[GenerationRequest, GenerationState, tuple[str, ...]], Awaitable[ModelChunk]]


def may_chain(table: RouteTable, generation: GenerationRequest) -> bool:
    """Whether experts may write the answer anew: only the answer to a question, as a whole.

    The result of a tool call goes to the model that made the call, and text that the client has already is
    continued.
    """
    messages = generation.prompt.messages or ()
    is_question = bool(messages) and messages[-1].role == "user" and not generation.prompt.written
    return table.after_expert == "chain" and generation.target.routed and is_question


@dataclass(slots=True)
class _Answer:
    """A whole answer that the client has not seen yet, and who wrote it."""

    author: str
    transcript: Transcript
    done: Done
    deltas: list[Delta]

    @property
    def is_open(self) -> bool:
        """Whether it can be written anew: it has text, and no stop string or tool call of the request has
        ended it."""
        done, text = self.done, self.transcript.text
        is_ended = done.has_tool_calls or done.stop_reason is not None or done.finish is not Finish.STOP
        return bool(text.strip()) and not is_ended

    @property
    def is_whole(self) -> bool:
        """Whether it may take the place of another one."""
        has_content = self.done.has_tool_calls or bool(self.transcript.text.strip())
        return has_content and self.done.finish is Finish.STOP


class Chain:
    """Writes the answers of one route table in chains.

    `write` streams one answer with its `Done`. `probe` asks the meta what it would choose from the allowed
    experts, and from further rows of its head.
    """

    def __init__(
        self,
        table: RouteTable,
        availability: ModelAvailability,
        requests: RequestBuilder,
        write: Write,
        probe: Probe,
    ) -> None:
        self._table = table
        self._availability = availability
        self._requests = requests
        self._write = write
        self._probe = probe
        self._stop = (CHAIN_STOP,) if table.has_chain_stop else ()

    async def write(
        self, generation: GenerationRequest, state: GenerationState
    ) -> AsyncGenerator[Delta | Done, None]:
        """Raises RouterError if there is no answer at all, or a part of it is shown already."""
        held: list[Delta] | None = []  # None: the client sees the answer while it is written
        done = None
        async with aclosing(self._write(generation, state)) as items:
            async for item in items:
                if isinstance(item, Done):
                    done = item
                elif held is None or (item.model == META and not isinstance(item, TextDelta)):
                    yield item
                elif item.model == META or not (held or self._remaining(generation, state, [item.model])):
                    for delta in (*held, item):
                        yield delta
                    held = None
                else:
                    held.append(item)
        assert done is not None
        if held is None:
            yield done
            return
        answer = _Answer(state.writer, state.transcript, done, held)
        async with aclosing(self._rewritten(generation, state, answer)) as rewritten:
            async for each in rewritten:
                yield each

    async def _rewritten(
        self, generation: GenerationRequest, state: GenerationState, answer: _Answer
    ) -> AsyncGenerator[Delta | Done, None]:
        """The last answer, after what may be seen of those before it."""
        hops = [answer.author]
        while answer.is_open and len(hops) < self._table.chain.max_hops:
            expert = await self._next_expert(generation, state, answer, hops)
            if expert is None:
                break
            hops.append(expert)
            if self._table.chain.reveal:
                yield ReasoningDelta(f"{answer.transcript.text}\n\n", answer.author)
            try:
                later = await self._answer_of(expert, generation, state, answer)
            except RouterError as error:
                state.trail.redecided(error.code or error.type)
                break
            if not later.is_whole:
                state.trail.redecided("incomplete")
                break
            state.drafts.append(answer.done.spans)
            answer = later
        state.switch_to(answer.author, answer.transcript)
        for delta in answer.deltas:
            yield delta
        yield state.done(answer.done.finish)

    async def _next_expert(
        self, generation: GenerationRequest, state: GenerationState, answer: _Answer, hops: list[str]
    ) -> str | None:
        """The expert that the meta has chosen to work on the answer; None: it stands, as it also does if the
        meta fails."""
        remaining = self._remaining(generation, state, hops)
        left = self._tokens_left(generation, state)
        if not remaining or (left is not None and left < answer.transcript.num_tokens):
            return None
        state.finish = None
        state.switch_to(META, Transcript())
        state.transcript.begin(META)
        try:
            asked = self._asked(generation, answer)
            asked = replace(asked, routing=replace(asked.routing, experts=remaining))
            chunk = await self._probe(asked, state, self._stop)
        except RouterError:
            return None
        if chunk.expert not in remaining:
            return None
        state.trail.handed_over(chunk.expert, chunk.probability)
        if is_left_to_meta(self._table, self._availability, chunk.expert):
            self._availability.wake(chunk.expert)
            state.trail.redecided("asleep")
            return None
        state.num_handoffs += 1
        return chunk.expert

    async def _answer_of(
        self, expert: str, generation: GenerationRequest, state: GenerationState, answer: _Answer
    ) -> _Answer:
        """What this expert makes of the answer. Raises RouterError: it does not come to an end."""
        state.switch_to(expert, Transcript(generation.stop))
        state.transcript.begin(expert, state.trail.decisions[-1].probability)
        asked = replace(
            self._asked(generation, answer),
            target=Target(expert, routed=False),
            max_tokens=self._tokens_left(generation, state),
        )
        deltas: list[Delta] = []
        async with aclosing(self._write(asked, state)) as items:
            async for item in items:
                if isinstance(item, Done):
                    return _Answer(expert, state.transcript, item, deltas)
                if not isinstance(item, PromptDelta):
                    deltas.append(item)
        raise AssertionError("an answer ends with Done")

    def _asked(self, generation: GenerationRequest, answer: _Answer) -> GenerationRequest:
        """The generation with the prompt for the next expert. Raises ModelFailed."""
        *before, last = generation.prompt.messages or ()
        content = self._table.chain.render(last.content, answer.transcript.text)
        messages = (*before, last.reworded(content))
        return replace(generation, prompt=replace(generation.prompt, messages=messages))

    def _remaining(
        self, generation: GenerationRequest, state: GenerationState, hops: Iterable[str]
    ) -> tuple[str, ...]:
        """The experts that may work on the answer after those of `hops`."""
        return self._requests.select(generation, state, without=hops).allowed

    def _tokens_left(self, generation: GenerationRequest, state: GenerationState) -> int | None:
        """How many tokens further answers may have; None: any number."""
        limits = (generation.max_tokens, self._table.chain.max_tokens)
        known = [limit for limit in limits if limit is not None]
        return min(known) - state.num_tokens if known else None
