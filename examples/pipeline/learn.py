"""Learns the expert tokens of the pipeline: `python -m examples.pipeline.learn` writes them.

A token is learned from what stands before its expert's part: for the planner the question, for the caller
the question with the plan in the open turn, and for the summariser the conversation with the tool's result.
After the summary, no expert follows. What another expert has written is no text of the meta: nothing is
learned from the positions before its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from examples.pipeline.conversions import Conversion, conversions
from examples.pipeline.run import CHECKPOINT, make_checkpoints
from examples.smollm2 import general
from experts.checkpoint import Checkpoint
from experts.learn import Query, compute_states, learn_tokens
from experts.learn.hidden_states import ROW_TENSORS, States

TOKENS = Path(__file__).with_name("tokens")
NUM_GENERAL = 80


def learning_queries() -> Iterator[Query]:
    for conversion in conversions():
        yield from _steps(conversion)
    for question in general.questions("train")[:NUM_GENERAL]:
        yield Query(question.messages)


def _steps(conversion: Conversion) -> Iterator[Query]:
    asked = ({"role": "user", "content": conversion.question},)
    yield Query(asked, "planner")
    yield Query(asked, "caller", written=conversion.plan)
    answered = (*asked, *call_and_result(conversion))
    yield Query(answered, "summariser")
    yield Query(answered, response=conversion.summary)


def call_and_result(conversion: Conversion) -> tuple[dict[str, Any], ...]:
    """The turns of the caller and of the tool."""
    function = {"name": "convert", "arguments": json.dumps(conversion.arguments)}
    call = {"id": "call_caller_1", "type": "function", "function": function}
    return (
        {"role": "assistant", "content": conversion.plan, "tool_calls": [call]},
        {"role": "tool", "content": conversion.result, "tool_call_id": call["id"]},
    )


def ends_alone(states: States, queries: Sequence[Query]) -> States:
    """Without the positions within a turn that another expert has begun; its last position stays."""
    is_begun = torch.tensor([bool(query.turn) for query in queries])[states.query]
    is_last = torch.cat([states.query[1:] != states.query[:-1], torch.tensor([True])])
    rows = ~is_begun | is_last
    return replace(states, **{name: getattr(states, name)[rows] for name in ROW_TENSORS})


def main() -> None:
    make_checkpoints()
    model, renderer = Checkpoint(str(CHECKPOINT), dtype="float32").load()
    queries = list(learning_queries())
    states = ends_alone(compute_states(model, renderer, queries), queries)
    report = learn_tokens(states, queries)
    for token in report.tokens:
        token.save(TOKENS / f"{token.name}.safetensors")
        print(token.name, token.scores)


if __name__ == "__main__":
    main()
