"""The likelihoods of several answers to each question; the model reads what they have in common only once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from experts.errors import InvalidCall
from experts.learn.hidden_states import Progress
from experts.learn.likelihood import (
    EncodedQuery,
    Likelihood,
    encode_prompt,
    encode_reference,
    reference_likelihoods,
    require_numbers,
    window,
)
from experts.learn.queries import Query
from experts.prompt import PromptRenderer

_MAX_LOGITS = 2**26  # at once, in one batch: 256 MiB of float32


def candidate_likelihoods(
    model: PreTrainedModel,
    renderer: PromptRenderer,
    questions: Sequence[Query],
    candidates: Sequence[str],
    *,
    batch_size: int = 16,
    progress: Progress = lambda done, total, what: None,
    stage: str = "candidates",
) -> list[list[Likelihood]]:
    """For each question, the likelihood of every candidate as its reference.

    The same figures as `reference_likelihoods`, up to rounding. The beginning that all questions share, such
    as an instruction, is read once for all; the rest of a question once; and then each candidate alone. Only
    a recurrent model, which cannot continue from a cache with several tokens at once, reads all every time.
    Raises ModelLoadError or DataError if the likelihoods of a recurrent model cannot be computed.
    """
    if not _has_kv_cache(model):
        return _one_by_one(model, renderer, questions, candidates, batch_size, progress, stage)
    progress(0, len(questions), stage)
    max_tokens = window(model)
    prompts = [_prompt(question, renderer, max_tokens) for question in questions]
    reader = _Reader(model.eval(), [ids for ids in prompts if isinstance(ids, list)], batch_size)
    likelihoods: list[list[Likelihood]] = []
    with torch.inference_mode():
        for question, prompt in zip(questions, prompts, strict=True):
            asked = [replace(question, response=candidate) for candidate in candidates]
            row = _row(asked, prompt, renderer, max_tokens, reader)
            require_numbers(model, asked, row)
            likelihoods.append(row)
            progress(len(likelihoods), len(questions), stage)
    return likelihoods


def _has_kv_cache(model: PreTrainedModel) -> bool:
    """Whether all that the model keeps of its prompt are keys and values."""
    layers = DynamicCache(config=model.config).layers
    return not model._is_stateful and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers
    )


def _one_by_one(
    model: PreTrainedModel,
    renderer: PromptRenderer,
    questions: Sequence[Query],
    candidates: Sequence[str],
    batch_size: int,
    progress: Progress,
    stage: str,
) -> list[list[Likelihood]]:
    size = len(candidates)
    found = reference_likelihoods(
        model,
        renderer,
        [replace(question, response=candidate) for question in questions for candidate in candidates],
        batch_size=batch_size,
        progress=lambda done, total, what: progress(done // size, len(questions), stage),
    )
    return [found[start : start + size] for start in range(0, len(found), size)]


def _prompt(question: Query, renderer: PromptRenderer, max_tokens: float) -> list[int] | str:
    """Token ids, or why the model cannot be asked."""
    try:
        return encode_prompt(question, renderer, max_tokens)
    except InvalidCall as error:
        return str(error)


def _row(
    asked: Sequence[Query],
    prompt: list[int] | str,
    renderer: PromptRenderer,
    max_tokens: float,
    reader: _Reader,
) -> list[Likelihood]:
    """`asked`: one question with each of the candidates as its reference."""
    refusal = prompt if isinstance(prompt, str) else ""
    row = [
        Likelihood(math.inf, 0, len(query.reference.encode("utf-8", "replace")), refusal) for query in asked
    ]
    if isinstance(prompt, str):
        return row
    found = [
        encode_reference(index, query, prompt, renderer, max_tokens) for index, query in enumerate(asked)
    ]
    encoded = [query for query in found if query is not None]
    for query, nll in zip(encoded, reader.nlls(encoded) if encoded else (), strict=True):
        row[query.index] = Likelihood(nll, len(query.positions), row[query.index].num_bytes)
    return row


def _common(queries: Sequence[EncodedQuery]) -> list[int]:
    """The ids before the first position that any of them is scored at: they are the same for all."""
    return queries[0].ids[: min(query.positions.start for query in queries)]


class _Reader:
    """Keeps the KV cache of the beginning that all `prompts` share."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[list[int]], batch_size: int) -> None:
        self._model = model
        self._batch_size = batch_size
        self._num_words = model.config.get_text_config().vocab_size
        self._shared = _shared_start(prompts)
        self._cache: Cache | None = None

    def nlls(self, queries: Sequence[EncodedQuery]) -> list[float]:
        """Nats per query; all queries are one question's."""
        prompt = _common(queries)
        cache = self._read_prompt(prompt)
        longest = max(len(query.ids) for query in queries) - len(prompt)
        size = max(1, min(self._batch_size, _MAX_LOGITS // (self._num_words * longest)))
        batches = [queries[start : start + size] for start in range(0, len(queries), size)]
        return [nll for batch in batches for nll in self._batch_nlls(batch, deepcopy(cache), len(prompt))]

    def _read_prompt(self, prompt: list[int]) -> Cache | None:
        # A token merged with a candidate makes what all candidates share shorter than the prompt.
        if prompt[: len(self._shared)] != self._shared:
            return self._read(None, prompt)
        if self._cache is None:
            self._cache = self._read(None, self._shared)
        return self._read(deepcopy(self._cache), prompt[len(self._shared) :])

    def _read(self, cache: Cache | None, ids: Sequence[int]) -> Cache | None:
        """`cache` with `ids` read, for which no logits are needed; None is an empty one."""
        if not ids:
            return cache
        tokens = torch.tensor([ids], device=self._model.device)
        output = self._model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        found: Cache = output.past_key_values
        return found

    def _batch_nlls(self, batch: Sequence[EncodedQuery], cache: Cache | None, start: int) -> list[float]:
        """`cache` holds the ids before `start`, which it is used up for."""
        # Padding is on the right: with causal attention no position that counts sees it.
        ids = nn.utils.rnn.pad_sequence(
            [torch.tensor(query.ids[start:]) for query in batch], batch_first=True
        )
        if cache is not None:
            cache.batch_repeat_interleave(len(batch))
        ids = ids.to(self._model.device)
        logits: Tensor = self._model(ids, past_key_values=cache, use_cache=True).logits
        return [_nll(own, query, start) for own, query in zip(logits, batch, strict=True)]


def _nll(logits: Tensor, query: EncodedQuery, start: int) -> float:
    """`logits` [T, V] begin at the position `start`."""
    first, end = query.positions.start - start, query.positions.stop - start
    target = torch.tensor(query.ids[query.first :], device=logits.device)
    return float(nn.functional.cross_entropy(logits[first:end].float(), target, reduction="sum"))


def _shared_start(prompts: Sequence[list[int]]) -> list[int]:
    if not prompts:
        return []
    lowest, highest = min(prompts), max(prompts)  # what these two share, all share
    length = next(
        (index for index, (a, b) in enumerate(zip(lowest, highest, strict=False)) if a != b),
        min(len(lowest), len(highest)),
    )
    return lowest[:length]
