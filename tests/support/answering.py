"""Decode one answer against fakes, as its client sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.decoding.decode import Decoder
from router.decoding.delta import Delta, TextDelta
from router.decoding.generation import Done, GenerationRequest
from tests.fakes.availability import FakeRoutes
from tests.fakes.models import GENERATION, FakeModel, expert_table, in_virtual_time


def answer(
    models: Mapping[str, FakeModel],
    generation: GenerationRequest = GENERATION,
    routes: FakeRoutes | None = None,
    **changes: Any,
) -> tuple[str, Done]:
    """Decode in virtual time; returns the client's text and the end. No stream may stay open in any case."""
    deltas, done = answer_in_parts(models, generation, routes, **changes)
    text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    assert text == "".join(span.text for span in done.spans)
    assert done.num_completion_tokens == sum(u.num_completion_tokens for u in done.usage_by_model.values())
    return text, done


def answer_in_parts(
    models: Mapping[str, FakeModel],
    generation: GenerationRequest = GENERATION,
    routes: FakeRoutes | None = None,
    **changes: Any,
) -> tuple[list[Delta], Done]:
    """As `answer`, with everything that the client may see."""
    decoder = Decoder(expert_table(**changes), models, routes or FakeRoutes())
    deltas: list[Delta] = []

    async def read() -> Done:
        try:
            async for item in decoder.decode(generation):
                if isinstance(item, Done):
                    return item
                deltas.append(item)
            raise AssertionError("the answer ended without Done")
        finally:  # checked here, since the loop closes forgotten streams when it shuts down
            assert not any(model.num_open for model in models.values())

    return deltas, in_virtual_time(read())


async def text_of(decoder: Decoder, generation: GenerationRequest = GENERATION) -> str:
    """The text of the answer, as its client gets it."""
    return "".join([item.text async for item in decoder.decode(generation) if isinstance(item, TextDelta)])
