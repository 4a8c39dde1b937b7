"""How probable a model finds reference answers, under its own chat template and tokenizer."""

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
from experts.learn.queries import Query, broken_lines
from experts.learn.states import Progress
from experts.prompt import PromptRenderer

_MAX_LOGITS = 2**26  # at once, as large as a batch may make them: 256 MiB of float32


@dataclass(frozen=True)
class Likelihood:
    """Of one reference: negative log likelihood in nats, summed over its tokens; its length twice.

    `nll` is infinite where the model cannot give this answer at all: its template or window takes no such
    prompt (then `refusal` says why), or its tokenizer or window no such answer.
    """

    nll: float
    num_tokens: int
    num_bytes: int
    refusal: str = ""

    @property
    def nll_per_byte(self) -> float:
        """Nats per byte of UTF-8, which unlike tokens are the same for every model."""
        return self.nll / self.num_bytes


@dataclass(frozen=True)
class _Scored:
    """Prompt and reference as token ids; those from `first` on are the reference's."""

    index: int
    ids: list[int]
    first: int

    @property
    def positions(self) -> range:
        """Where the tokens of the reference are predicted: each one place before it stands."""
        return range(self.first - 1, len(self.ids) - 1)


def reference_likelihoods(
    model: PreTrainedModel,
    renderer: PromptRenderer,
    queries: Sequence[Query],
    *,
    batch_size: int = 16,
    progress: Progress = lambda done, total, what: None,
) -> list[Likelihood]:
    """The likelihood of every query's reference, following `written` in the open assistant turn.

    A token merged from prompt and reference counts with the reference; the end of the turn does not count.
    Batches get smaller where references are long, so that logits stay within bounds.
    Raises DataError (a query has no reference, a likelihood is not a number), ModelLoadError.
    """
    require_references(queries)
    model.eval()
    likelihoods, scored = _prepared(model, renderer, queries)
    max_positions = max(1, _MAX_LOGITS // model.config.get_text_config().vocab_size)
    done = len(queries) - len(scored)
    with torch.inference_mode():
        for batch in _batches(scored, batch_size, max_positions):
            progress(done, len(queries), "likelihoods")
            for one, nll in zip(batch, _batch_nll(model, batch, max_positions), strict=True):
                num_bytes = likelihoods[one.index].num_bytes
                likelihoods[one.index] = Likelihood(nll, len(one.positions), num_bytes)
            done += len(batch)
    progress(done, len(queries), "likelihoods")
    _require_numbers(model, queries, likelihoods)
    return likelihoods


def require_references(queries: Sequence[Query]) -> None:
    """Raises DataError listing the queries by which models cannot be compared."""
    problems = [
        f'{query.place}: no reference answer; add one, or an "expert"'
        for query in queries
        if not query.reference
    ]
    if problems:
        raise DataError(broken_lines("query set", problems, len(queries)))


def _prepared(
    model: PreTrainedModel, renderer: PromptRenderer, queries: Sequence[Query]
) -> tuple[list[Likelihood], list[_Scored]]:
    """An infinite likelihood for every query, to be replaced for those that the model can answer."""
    max_tokens = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
    likelihoods, scored = [], []
    for index, query in enumerate(queries):
        refusal = ""
        try:
            if one := _scored(index, query, renderer, max_tokens):
                scored.append(one)
        except InvalidCall as error:
            refusal = str(error)
        likelihoods.append(Likelihood(math.inf, 0, len(query.reference.encode("utf-8", "replace")), refusal))
    return likelihoods, scored


def _scored(index: int, query: Query, renderer: PromptRenderer, max_tokens: float) -> _Scored | None:
    """None where tokenizer or window cannot take the reference. Raises InvalidCall where not the prompt."""
    prompt = renderer.chat(query.messages, query.written)
    if len(prompt) > max_tokens:
        raise ContextLengthExceeded(len(prompt), int(max_tokens))
    try:
        ids = renderer.chat(query.messages, query.written + query.reference)
    except InvalidPrompt:
        return None
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, ids, strict=False)))
    first = max(shared, 1)  # nothing predicts the very first token
    # A token for the unknown is easily guessed, but it spells nothing: it would win every such reference.
    if not ids[first:] or len(ids) > max_tokens or renderer.tokenizer.unk_token_id in ids[first:]:
        return None
    return _Scored(index, ids, first)


def _batches(scored: Sequence[_Scored], batch_size: int, max_positions: int) -> Iterator[list[_Scored]]:
    """Longest first: little padding, and too large a batch fails at once."""
    batch: list[_Scored] = []
    for one in sorted(scored, key=lambda one: -len(one.ids)):
        larger = [*batch, one]
        if batch and (len(larger) > batch_size or len(larger) * len(_positions(larger)) > max_positions):
            yield batch
            larger = [one]
        batch = larger
    if batch:
        yield batch


def _batch_nll(model: PreTrainedModel, batch: Sequence[_Scored], max_positions: int) -> list[float]:
    """The model makes the logits itself, for it may scale or cap what comes out of its head."""
    pad = nn.utils.rnn.pad_sequence
    ids = pad([torch.tensor(one.ids) for one in batch], batch_first=True).to(model.device)
    # Padding stands to the right: under causal attention no position that counts sees it.
    mask = pad([torch.ones(len(one.ids), dtype=torch.long) for one in batch], batch_first=True)
    totals = [0.0] * len(batch)
    # One reference beyond the bound is worth another pass or two over its prompt.
    for kept in torch.split(torch.tensor(_positions(batch)), max(1, max_positions // len(batch))):
        logits = _kept_logits(model, ids, mask.to(model.device), kept.to(model.device))
        for row, one in enumerate(batch):
            own = (kept >= one.positions.start) & (kept < one.positions.stop)
            own_logits = logits[row, own].float()
            target = torch.tensor(one.ids)[kept[own] + 1].to(logits.device)
            totals[row] += float(nn.functional.cross_entropy(own_logits, target, reduction="sum"))
    return totals


def _positions(batch: Sequence[_Scored]) -> list[int]:
    return sorted(set().union(*(one.positions for one in batch)))


def _kept_logits(model: PreTrainedModel, ids: Tensor, mask: Tensor, kept: Tensor) -> Tensor:
    """[B, positions kept, V]"""
    logits: Tensor = model(ids, attention_mask=mask, use_cache=False, logits_to_keep=kept).logits
    if logits.shape[1] != len(kept):
        name = checkpoint_name(str(model.name_or_path))
        raise ModelLoadError(f"{name}: gives logits for whole prompts only; choose another architecture")
    return logits


def _require_numbers(
    model: PreTrainedModel, queries: Sequence[Query], likelihoods: Sequence[Likelihood]
) -> None:
    pairs = zip(queries, likelihoods, strict=True)
    places = [query.place for query, likelihood in pairs if math.isnan(likelihood.nll)]
    if places:
        raise DataError(
            f"{checkpoint_name(str(model.name_or_path))}: the likelihood of {len(places)} of {len(queries)} "
            f"references is not a number, {places[0]} the first; check the weights, or load them as float32"
        )
