"""Measures one part in this process: `python -m benchmarks.gpu.measurement PART SETTING`, SETTING as JSON.

The last line of its output is a JSON object.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.setting import Setting
from benchmarks.overhead.client import Answer, SendQuestion
from benchmarks.overhead.model import ENGINE_ENV

NUMBERS = itertools.count(1)


def main() -> None:
    part, setting = sys.argv[1], Setting(**json.loads(sys.argv[2]))
    os.environ.update(ENGINE_ENV)
    print(json.dumps(asyncio.run(_measure(part, setting))))


async def _measure(part: str, setting: Setting) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as folder:
        async with PARTS[part].opened(setting.model, Path(folder)) as opened:
            results = [
                await _rounds(name, send, num_streams, setting)
                for num_streams in setting.num_streams
                for name, send in opened.senders.items()
            ]
    return {"results": results, "details": opened.details}


async def _rounds(name: str, send: SendQuestion, num_streams: int, setting: Setting) -> dict[str, Any]:
    """Medians over the rounds. The first one warms up."""
    rounds = [await _round(send, num_streams, setting) for _ in range(setting.num_rounds + 1)][1:]
    medians = {key: round(statistics.median(one[key] for one in rounds), 2) for key in rounds[0]}
    return {"name": name, "num_streams": num_streams, **medians}


async def _round(send: SendQuestion, num_streams: int, setting: Setting) -> dict[str, float]:
    """All streams begin at once. `gap_ms`: between two tokens of one stream, on average over its answer."""
    questions = [_question(setting.num_prompt_chars) for _ in range(num_streams)]
    answers = await asyncio.gather(*(send(question, setting.num_tokens) for question in questions))
    _require_whole(answers, setting.num_tokens)
    took_s = max(answer.ended_s for answer in answers) - min(answer.began_s for answer in answers)
    gaps_ms = [1000 * (answer.ended_s - answer.first_s) / (setting.num_tokens - 1) for answer in answers]
    return {
        "tokens_per_s": num_streams * setting.num_tokens / took_s,
        "first_text_ms": statistics.median(answer.ttft_ms for answer in answers),
        "gap_ms": statistics.median(gaps_ms),
    }


def _question(num_chars: int) -> str:
    """Every question is new from its first character on, so no cached prefix helps."""
    beginning = f"{next(NUMBERS)} {os.getpid()} "
    return (beginning + "and what comes after that " * (num_chars // 20))[:num_chars]


def _require_whole(answers: Sequence[Answer], num_tokens: int) -> None:
    for answer in answers:
        if len(answer.text) != num_tokens:  # each token is one character
            raise RuntimeError(f"an answer has {len(answer.text)} tokens instead of {num_tokens}")


if __name__ == "__main__":
    main()
