"""Many streams of one engine at the same time, each of the same length."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from experts.engine.base import Engine
from experts.engine.request import EngineRequest

_NUMBERS = itertools.count()


@dataclass
class Rates:
    """Per round: tokens per second, and the median time to first token."""

    tokens_per_s: list[float] = field(default_factory=list)
    ttft_ms: list[float] = field(default_factory=list)

    async def measure(self, engine: Engine, num_tokens: int, options: Sequence[dict[str, Any]]) -> None:
        """One round: a stream for each of these `options` of requests."""
        began_s = time.perf_counter()
        firsts_s = await asyncio.gather(*(_stream(engine, num_tokens, each) for each in options))
        self.tokens_per_s.append(len(options) * num_tokens / (time.perf_counter() - began_s))
        self.ttft_ms.append(1000 * statistics.median(firsts_s))


async def _stream(engine: Engine, num_tokens: int, options: dict[str, Any]) -> float:
    """Returns the seconds to the first token. Every question is new, so that no cached prefix helps."""
    number = next(_NUMBERS)
    request = EngineRequest(
        str(number),
        messages=({"role": "user", "content": f"{number} is the number of this stream"},),
        max_tokens=num_tokens,
        temperature=0.0,
        **options,
    )
    began_s, first_s, num_written = time.perf_counter(), 0.0, 0
    async for chunk in engine.generate(request):
        first_s = first_s or time.perf_counter() - began_s
        num_written += len(chunk.token_ids)
    assert num_written == num_tokens, f"a stream ended after {num_written} tokens"
    return first_s
