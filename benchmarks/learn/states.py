"""Reading a query set with a real meta, compared with plain batched forward passes over the same prompts.

The meta is SmolLM2-135M, the queries are the demo's.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from benchmarks.learn.report import target
from benchmarks.learn.setting import Setting
from examples.smollm2.checkpoint import make_checkpoint
from examples.smollm2.query_set import train_queries
from examples.smollm2.run import CHECKPOINT, to_query
from experts.checkpoint import Checkpoint
from experts.learn.hidden_states import compute_states
from experts.learn.queries import Query
from experts.prompt import PromptRenderer

_BATCH_SIZE = 16
_NUM_ROUNDS = 5

Read = Callable[[PreTrainedModel, PromptRenderer, Sequence[Query]], object]


@dataclass(frozen=True)
class StatesCost:
    """`ratio`: the median over rounds, in which both read the same queries in turn. `peak_bytes`: the largest
    resident memory of a process that does nothing else, the model included."""

    num_queries: int
    queries_per_s: float
    plain_queries_per_s: float
    ratio: float = target("<= 1.2")
    peak_bytes: int = 0
    plain_peak_bytes: int = 0


def states(setting: Setting) -> StatesCost:
    make_checkpoint(CHECKPOINT)
    queries = _queries(setting)
    size = len(queries) // _NUM_ROUNDS
    model, renderer = _meta()
    _plain(model, renderer, queries[:_BATCH_SIZE])  # warms up
    pairs = [
        _taken_s(
            model, renderer, queries[number * size : (number + 1) * size], is_plain_first=number % 2 == 0
        )
        for number in range(_NUM_ROUNDS)
    ]
    del model
    return StatesCost(
        num_queries=size * _NUM_ROUNDS,
        queries_per_s=size / statistics.median(ours for ours, _ in pairs),
        plain_queries_per_s=size / statistics.median(plain for _, plain in pairs),
        ratio=statistics.median(ours / plain for ours, plain in pairs),
        peak_bytes=_peak_bytes(compute_states, setting),
        plain_peak_bytes=_peak_bytes(_plain, setting),
    )


def _queries(setting: Setting) -> list[Query]:
    num_each, num_general = setting.size(100, 3), setting.size(400, 7)
    return [to_query(question) for question in train_queries(num_each, num_general, seed=0)]


def _meta() -> tuple[PreTrainedModel, PromptRenderer]:
    return Checkpoint(str(CHECKPOINT), dtype="float32").load()


@torch.inference_mode()
def _plain(model: PreTrainedModel, renderer: PromptRenderer, queries: Sequence[Query]) -> None:
    """One forward pass over each batch, with the logits of the last position alone."""
    prompts = sorted((renderer.chat(query.messages) for query in queries), key=len, reverse=True)
    for start in range(0, len(prompts), _BATCH_SIZE):
        batch = [torch.tensor(prompt) for prompt in prompts[start : start + _BATCH_SIZE]]
        mask = pad_sequence([torch.ones_like(prompt) for prompt in batch], batch_first=True)
        model(input_ids=pad_sequence(batch, batch_first=True), attention_mask=mask, logits_to_keep=1)


def _taken_s(
    model: PreTrainedModel, renderer: PromptRenderer, queries: Sequence[Query], *, is_plain_first: bool
) -> tuple[float, float]:
    """Seconds that ours takes, and plain passes."""
    order: list[Read] = [_plain, compute_states] if is_plain_first else [compute_states, _plain]
    taken_s: dict[Read, float] = {}
    for read in order:
        began_s = time.perf_counter()
        read(model, renderer, queries)
        taken_s[read] = time.perf_counter() - began_s
    return taken_s[compute_states], taken_s[_plain]


def _peak_bytes(read: Read, setting: Setting) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_read_alone, (read, setting))


def _read_alone(read: Read, setting: Setting) -> int:
    model, renderer = _meta()
    read(model, renderer, _queries(setting))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
