"""The likelihood of reference answers under a model, with its own chat template and tokenizer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from experts.checkpoint import checkpoint_name
from experts.errors import ContextLengthExceeded, DataError, InvalidCall, InvalidPrompt, ModelLoadError
from experts.learn.hidden_states import Progress
from experts.learn.queries import QUERY_SET, Query, broken_rows
from experts.prompt import PromptRenderer

_MAX_LOGITS = 2**26  # at once, in one batch: 256 MiB of float32


@dataclass(frozen=True)
class Likelihood:
    """The negative log likelihood of one reference in nats, summed over its tokens; and its length.

    `nll` is infinite if the model cannot give this answer: its template or window does not take the prompt
    (then `refusal` says why), or its tokenizer or window does not take the answer.
    """

    nll: float
    num_tokens: int
    num_bytes: int
    refusal: str = ""

    @property
    def nll_per_byte(self) -> float:
        """Nats per UTF-8 byte, a unit that unlike tokens is the same for every model."""
        return self.nll / self.num_bytes


@dataclass(frozen=True)
class EncodedQuery:
    """The token ids of prompt and reference; the reference begins at `first`. `index`: of the query."""

    index: int
    ids: list[int]
    first: int

    @property
    def positions(self) -> range:
        """The positions that predict the reference's tokens: each is one before its token."""
        return range(self.first - 1, len(self.ids) - 1)


def reference_likelihoods(
    model: PreTrainedModel,
    renderer: PromptRenderer,
    queries: Sequence[Query],
    *,
    batch_size: int = 16,
    progress: Progress = lambda done, total, what: None,
) -> list[Likelihood]:
    """The likelihood of every query's reference, after `written` in the open assistant turn.

    A token merged from prompt and reference counts as part of the reference; the end of the turn does not
    count. Batches are smaller for long references, to bound the memory for logits.
    Raises DataError (a query has no reference, or a likelihood is not a number), ModelLoadError.
    """
    require_references(queries)
    model.eval()
    likelihoods, encoded = _encode_all(model, renderer, queries)
    num_done = len(queries) - len(encoded)
    progress(num_done, len(queries), "likelihoods")
    for batch in encoded_nll(model, encoded, batch_size):
        for query, nll in batch:
            num_bytes = likelihoods[query.index].num_bytes
            likelihoods[query.index] = Likelihood(nll, len(query.positions), num_bytes)
        num_done += len(batch)
        progress(num_done, len(queries), "likelihoods")
    require_numbers(model, queries, likelihoods)
    return likelihoods


def encoded_nll(
    model: PreTrainedModel, encoded: Sequence[EncodedQuery], batch_size: int
) -> Iterator[list[tuple[EncodedQuery, float]]]:
    """In batches, every query with the negative log likelihood of its reference in nats; the longest first.

    Raises ModelLoadError.
    """
    max_positions = max(1, _MAX_LOGITS // model.config.get_text_config().vocab_size)
    for batch in _batches(encoded, batch_size, max_positions):
        with torch.inference_mode():
            nll = _batch_nll(model, batch, max_positions)
        yield list(zip(batch, nll, strict=True))


def window(model: PreTrainedModel) -> float:
    """How many tokens the model takes; infinite if its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf


def encode_prompt(query: Query, renderer: PromptRenderer, max_tokens: float) -> list[int]:
    """The ids before the reference. Raises InvalidCall if template or window cannot take them."""
    # Not the generation prompt, which may end before the header of an answer, or in a think block.
    prompt = renderer.chat(query.messages, query.written, begun=True)
    if len(prompt) > max_tokens:
        raise ContextLengthExceeded(len(prompt), int(max_tokens) - 1)
    return prompt


def encode_reference(
    index: int, query: Query, prompt: Sequence[int], renderer: PromptRenderer, max_tokens: float
) -> EncodedQuery | None:
    """`prompt`: from `encode_prompt`. None if tokenizer or window cannot take the reference."""
    try:
        ids = renderer.chat(query.messages, query.written + query.reference)
    except InvalidPrompt:
        return None
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, ids, strict=False)))
    first = max(shared, 1)  # no position predicts the very first token
    # The unknown token is easy to predict but spells nothing: a model that writes it would win every time.
    if not ids[first:] or len(ids) > max_tokens or renderer.tokenizer.unk_token_id in ids[first:]:
        return None
    return EncodedQuery(index, ids, first)


def require_references(queries: Sequence[Query]) -> None:
    """Raises DataError with the queries that have no reference, so that models cannot be compared by them."""
    problems = [
        f'{query.place}: no reference answer; add one, or an "expert"'
        for query in queries
        if not query.reference
    ]
    if problems:
        raise DataError(broken_rows(QUERY_SET, problems, len(queries)))


def require_numbers(
    model: PreTrainedModel, queries: Sequence[Query], likelihoods: Sequence[Likelihood]
) -> None:
    """Raises DataError, which names the model, if a likelihood is not a number."""
    pairs = zip(queries, likelihoods, strict=True)
    places = [query.place for query, likelihood in pairs if math.isnan(likelihood.nll)]
    if places:
        raise DataError(
            f"{checkpoint_name(str(model.name_or_path))}: the likelihood of {len(places)} of {len(queries)} "
            f"references is not a number, {places[0]} the first; check the weights, or load them as float32"
        )


def _encode_all(
    model: PreTrainedModel, renderer: PromptRenderer, queries: Sequence[Query]
) -> tuple[list[Likelihood], list[EncodedQuery]]:
    """For every query an infinite likelihood, to be replaced; and the queries that the model can answer."""
    max_tokens = window(model)
    likelihoods, encoded = [], []
    for index, query in enumerate(queries):
        refusal = ""
        try:
            prompt = encode_prompt(query, renderer, max_tokens)
            if found := encode_reference(index, query, prompt, renderer, max_tokens):
                encoded.append(found)
        except InvalidCall as error:
            refusal = str(error)
        likelihoods.append(Likelihood(math.inf, 0, len(query.reference.encode("utf-8", "replace")), refusal))
    return likelihoods, encoded


def _batches(
    encoded: Sequence[EncodedQuery], batch_size: int, max_positions: int
) -> Iterator[list[EncodedQuery]]:
    """Longest first: little padding, and a batch that is too large fails at the start."""
    batch: list[EncodedQuery] = []
    for query in sorted(encoded, key=lambda query: -len(query.ids)):
        larger = [*batch, query]
        if batch and (len(larger) > batch_size or len(larger) * len(_positions(larger)) > max_positions):
            yield batch
            larger = [query]
        batch = larger
    if batch:
        yield batch


def _batch_nll(model: PreTrainedModel, batch: Sequence[EncodedQuery], max_positions: int) -> list[float]:
    """Nats per query of `batch`. Uses the model's own logits, because it may scale or cap its head's."""
    pad = nn.utils.rnn.pad_sequence
    ids = pad([torch.tensor(query.ids) for query in batch], batch_first=True).to(model.device)
    # Padding is on the right: with causal attention no position that counts sees it.
    mask = pad([torch.ones(len(query.ids), dtype=torch.long) for query in batch], batch_first=True)
    totals = [0.0] * len(batch)
    # A single reference above the bound takes a pass or two more over its prompt.
    for kept in torch.split(torch.tensor(_positions(batch)), max(1, max_positions // len(batch))):
        logits = _kept_logits(model, ids, mask.to(model.device), kept.to(model.device))
        for row, query in enumerate(batch):
            own = (kept >= query.positions.start) & (kept < query.positions.stop)
            own_logits = logits[row, own].float()
            target = torch.tensor(query.ids)[kept[own] + 1].to(logits.device)
            totals[row] += float(nn.functional.cross_entropy(own_logits, target, reduction="sum"))
    return totals


def _positions(batch: Sequence[EncodedQuery]) -> list[int]:
    return sorted(set().union(*(query.positions for query in batch)))


def _kept_logits(model: PreTrainedModel, ids: Tensor, mask: Tensor, kept: Tensor) -> Tensor:
    """Logits [B, positions kept, V]."""
    logits: Tensor = model(ids, attention_mask=mask, use_cache=False, logits_to_keep=kept).logits
    if logits.shape[1] != len(kept):
        name = checkpoint_name(str(model.name_or_path))
        raise ModelLoadError(f"{name}: gives logits for whole prompts only; choose another architecture")
    return logits
