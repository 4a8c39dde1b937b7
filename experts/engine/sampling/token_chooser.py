"""Chooses the tokens of requests that ask for more than temperature, top-k, top-p and a seed.

Both local engines use it. The order of operations is vLLM's: tokens are forbidden, then biased, then
penalised; what is left is sampled.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from experts.engine.grammar.call_beginnings import CallBeginnings
from experts.engine.grammar.compiler import GrammarCompiler
from experts.engine.grammar.state import CompiledGrammar, GrammarState
from experts.engine.grammar.words import Words
from experts.engine.sampling.answer_grammar import AnswerGrammar
from experts.engine.sampling.penalties import Penalties
from experts.engine.sampling.rules import TokenRules, chooses_tokens, has_penalties
from experts.text.decoder import TokenDecoder


def answer_grammar(
    rules: TokenRules, compiled: CompiledGrammar, decoder: TokenDecoder, words: Words | None
) -> AnswerGrammar:
    """At the beginning of an answer, or where an interrupted one continues.

    `decoder`: shows the marks of thoughts and calls; `words`: needed if the answer may be a call. Raises
    EngineFailed (see `AnswerGrammar`).
    """
    calls = CallBeginnings(rules.call_beginnings, words, decoder) if words is not None else None
    grammar = AnswerGrammar(GrammarState(compiled, rules.turn_end_ids), rules.thoughts, decoder, calls)
    if rules.resumed is not None:
        grammar.resume(rules.resumed, knows_ids=rules.knows_resumed_ids)
    return grammar


class TokenChooser:
    """One request's rules, and what they depend on: the tokens of its answer so far."""

    def __init__(
        self, rules: TokenRules, prompt: Sequence[int], grammar: AnswerGrammar | None = None
    ) -> None:
        self._rules = rules
        self._prompt = prompt
        self._grammar = grammar
        self._ids = list(rules.own_ids)  # of the answer
        self._num_before = len(rules.own_ids)
        self._penalties: Penalties | None = None

    def process(self, logits: Tensor) -> Tensor:
        """Raw logits [V] of any float type → float32 [V] to sample from; never all −inf."""
        row = logits.float()
        for forbidden in self._forbidden(row):
            restricted = row.masked_fill(forbidden, float("-inf"))
            # Rules may contradict each other. The first ones hold: without them the answer is not valid.
            if not bool(restricted.isneginf().all()):
                row = restricted
        row = self._bias(row)
        if has_penalties(self._rules.options):
            if self._penalties is None:
                self._penalties = Penalties(self._rules.options, self._prompt, self._ids, row)
            row = self._penalties.apply(row)
        return row

    def add(self, token_id: int) -> int:
        """Record the sampled token, or the one that takes its place so that the answer can still be completed
        under its grammar. Returns the one that was recorded."""
        if self._grammar is not None:
            num_left = self._rules.max_tokens - (len(self._ids) - self._num_before)
            token_id = self._grammar.fitting(token_id, num_left)
        self._ids.append(token_id)
        if self._penalties is not None:
            self._penalties.count(token_id)
        if self._grammar is not None:
            self._grammar.accept(token_id)
        return token_id

    def keep_only(self, num_tokens: int) -> None:
        """Undo the choices after this number of tokens."""
        while len(self._ids) > self._num_before + num_tokens:
            token_id = self._ids.pop()
            if self._penalties is not None:
                self._penalties.count(token_id, -1)
            if self._grammar is not None:
                self._grammar.undo()

    def _forbidden(self, row: Tensor) -> Iterable[Tensor]:
        """Masks bool [V], the most important one first."""
        options = self._rules.options
        if self._grammar is not None and (mask := self._grammar.forbidden(len(row))) is not None:
            yield mask.to(row.device)
        if options.allowed_token_ids is not None:
            yield ~_mask(options.allowed_token_ids, row)
        if endings := [word[-1] for word in self._rules.bad_words if self._would_complete(word)]:
            yield _mask(endings, row)
        if len(self._ids) < self._num_before + options.min_tokens:
            yield _mask(self._rules.end_ids, row)

    def _would_complete(self, word: Sequence[int]) -> bool:
        num_before = len(word) - 1
        return not num_before or self._ids[-num_before:] == list(word[:-1])

    def _bias(self, row: Tensor) -> Tensor:
        bias = {i: value for i, value in self._rules.options.logit_bias.items() if i < len(row)}
        if not bias:
            return row
        values = row.new_tensor(list(bias.values()))
        return row.index_add(0, torch.tensor(list(bias), device=row.device), values)


async def make_chooser(
    rules: TokenRules, prompt: Sequence[int], grammars: GrammarCompiler, decoder: TokenDecoder
) -> TokenChooser | None:
    """None if plain sampling follows the rules. Raises InvalidCall, EngineFailed (see `AnswerGrammar`)."""
    if not chooses_tokens(rules.options):
        return None
    grammar = rules.options.grammar
    if grammar is None:
        return TokenChooser(rules, prompt)
    words: Words | None = None
    if rules.call_beginnings:
        future: Future[Words] = asyncio.wrap_future(grammars.submit_words())
        words = await future
    compiled = await grammars.compile(grammar)
    return TokenChooser(rules, prompt, answer_grammar(rules, compiled, decoder, words))


def _mask(ids: Iterable[int], row: Tensor) -> Tensor:
    mask = torch.zeros_like(row, dtype=torch.bool)
    mask[torch.tensor([i for i in ids if i < len(row)], dtype=torch.int64, device=row.device)] = True
    return mask
