"""The published recipe to train expert rows against ours: same model, data and positions.

Both start from queries, so both include the tokenization.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.learn.metas import Meta, wide_meta
from benchmarks.learn.published import BATCH_SIZE, train_recipe
from benchmarks.learn.questions import draw_queries
from benchmarks.learn.report import target
from benchmarks.learn.setting import Setting
from experts.learn.fit import DEFAULT_L2, fit_tokens
from experts.learn.hidden_states import States, compute_states
from experts.learn.loss import TokenLoss
from experts.learn.queries import Query
from experts.learn.routing_judge import RouteScores, judge
from experts.token import ExpertToken


@dataclass(frozen=True)
class Method:
    """One method: time, loss over all training positions without penalty, and held-out scores."""

    method: str
    seconds: float
    final_training_loss: float
    held_out_accuracy: float
    early: float
    wrong_expert: float
    no_handover: float
    false_trigger_rate: float


@dataclass(frozen=True)
class Recipe:
    """Seconds are medians of rounds; the methods take turns. `further_l2_*` and `new_expert_*`: fits on
    cached states, compared with a whole run of the recipe.
    """

    hidden_size: int
    num_parameters: int
    num_queries: int
    num_positions: int
    num_rounds: int
    states_s: float
    fit_s: float
    further_l2_fit_s: float
    new_expert_fit_s: float
    total_ratio: float = target(">= 5")
    further_l2_ratio: float = target(">= 100")
    new_expert_ratio: float = target(">= 100")
    loss_difference: float = target("<= 0, ours minus the recipe's")
    accuracy_difference: float = target(">= 0, ours minus the recipe's")
    methods: tuple[Method, ...] = ()


@dataclass(frozen=True)
class _Round:
    """One run of both methods."""

    recipe_s: float
    states_s: float
    fit_s: float
    recipe_tokens: list[ExpertToken]
    our_tokens: list[ExpertToken]
    states: States


def recipe(setting: Setting) -> Recipe:
    meta = wide_meta(setting)
    queries = draw_queries("recipe", setting.size(300, 12), setting.size(700, 30))
    held_out = draw_queries("recipe", setting.size(64, 8), setting.size(300, 20), held_out=True)
    train_recipe(meta, queries[: 2 * BATCH_SIZE])  # the first batches warm up
    rounds = [_round(meta, queries) for _ in range(setting.size(2, 1))]
    held_out_states = compute_states(meta.model, meta.renderer, held_out)
    return _compare(meta, len(queries), rounds, held_out_states, _further_fits(rounds[-1]))


def _round(meta: Meta, queries: Sequence[Query]) -> _Round:
    began_s = time.perf_counter()
    rows = train_recipe(meta, queries)
    recipe_done_s = time.perf_counter()
    states = compute_states(meta.model, meta.renderer, queries, batch_size=BATCH_SIZE)
    states_done_s = time.perf_counter()
    ours = fit_tokens(states).tokens
    fit_done_s = time.perf_counter()
    return _Round(
        recipe_s=recipe_done_s - began_s,
        states_s=states_done_s - recipe_done_s,
        fit_s=fit_done_s - states_done_s,
        recipe_tokens=_as_tokens(rows, states),
        our_tokens=ours,
        states=states,
    )


def _as_tokens(rows: Tensor, states: States) -> list[ExpertToken]:
    return [
        ExpertToken(name, row.clone(), 0.0, states.meta_name, states.meta_fingerprint)
        for name, row in zip(states.expert_names, rows, strict=True)
    ]


def _further_fits(done: _Round) -> tuple[float, float]:
    """Seconds of two more fits on cached states: with another penalty, from the existing tokens; and of a
    sixth expert.
    """
    penalties = [factor * DEFAULT_L2 for factor in (0.1, 3.0, 10.0)]
    names = [token.name for token in done.our_tokens]
    other_l2_s, new_expert_s = [], []
    for l2, name in zip(penalties, names, strict=False):
        began_s = time.perf_counter()
        fit_tokens(done.states, l2=l2, start=done.our_tokens)
        other_l2_s.append(time.perf_counter() - began_s)
        incumbents = [token for token in done.our_tokens if token.name != name]
        began_s = time.perf_counter()
        fit_tokens(done.states, incumbents=incumbents)
        new_expert_s.append(time.perf_counter() - began_s)
    return statistics.median(other_l2_s), statistics.median(new_expert_s)


def _compare(
    meta: Meta, num_queries: int, rounds: Sequence[_Round], held_out: States, further: tuple[float, float]
) -> Recipe:
    last = rounds[-1]  # all rounds give the same tokens; only the times differ
    recipe_s = statistics.median(r.recipe_s for r in rounds)
    our_s = statistics.median(r.states_s + r.fit_s for r in rounds)
    published = _method("recipe", recipe_s, last.states, last.recipe_tokens, held_out)
    ours = _method("cached", our_s, last.states, last.our_tokens, held_out)
    return Recipe(
        hidden_size=last.states.hidden.shape[1],
        num_parameters=meta.num_parameters,
        num_queries=num_queries,
        num_positions=len(last.states),
        num_rounds=len(rounds),
        states_s=statistics.median(r.states_s for r in rounds),
        fit_s=statistics.median(r.fit_s for r in rounds),
        further_l2_fit_s=further[0],
        new_expert_fit_s=further[1],
        total_ratio=statistics.median(r.recipe_s / (r.states_s + r.fit_s) for r in rounds),
        further_l2_ratio=recipe_s / further[0],
        new_expert_ratio=recipe_s / further[1],
        loss_difference=ours.final_training_loss - published.final_training_loss,
        accuracy_difference=ours.held_out_accuracy - published.held_out_accuracy,
        methods=(published, ours),
    )


def _method(
    name: str, seconds: float, states: States, tokens: Sequence[ExpertToken], held_out: States
) -> Method:
    weight = torch.stack([token.vector for token in tokens]).double()
    bias = torch.tensor([token.bias for token in tokens], dtype=torch.float64)
    loss, _, _ = TokenLoss(states, [token.name for token in tokens])(weight, bias)
    scores = RouteScores.of(judge(held_out, tokens))
    return Method(
        method=name,
        seconds=seconds,
        final_training_loss=loss,
        held_out_accuracy=scores.accuracy,
        early=scores.early,
        wrong_expert=scores.wrong_expert,
        no_handover=scores.no_handover,
        false_trigger_rate=scores.false_trigger_rate,
    )
