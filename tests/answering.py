"""One answer decoded against fakes, as its client sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.decode import Decoder
from router.job import Delta, Done, Job
from tests.fake_routes import FakeRoutes
from tests.fakes import JOB, FakeModel, expert_table, in_virtual_time


def answer(
    models: Mapping[str, FakeModel], job: Job = JOB, routes: FakeRoutes | None = None, **changes: Any
) -> tuple[str, Done]:
    """Decode in virtual time: the client's text and the end. However it ends, no stream may be left open."""
    decoder = Decoder(expert_table(**changes), models, routes or FakeRoutes())

    async def events() -> list[Delta | Done]:
        try:
            return [event async for event in decoder.decode(job)]
        finally:  # at once: the loop's shutdown would close a forgotten stream
            assert not any(model.num_open for model in models.values())

    *deltas, done = in_virtual_time(events())
    assert isinstance(done, Done)
    text = "".join(delta.text for delta in deltas if isinstance(delta, Delta))
    assert text == "".join(span.text for span in done.spans)
    assert done.num_completion_tokens == sum(u.num_completion_tokens for u in done.usage_by_model.values())
    return text, done
