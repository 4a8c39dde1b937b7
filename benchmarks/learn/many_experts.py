"""A fit of a thousand experts, on synthetic states as wide as those of a model with 2 billion parameters."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.learn.report import target
from benchmarks.learn.setting import Setting
from experts.learn.fit import fit_tokens
from experts.learn.hidden_states import States
from experts.learn.routing_judge import RouteScores, judge

# Standard deviations of the components of a hidden state at d = 2048. The part that all hand-overs share is
# larger than the part of a family of experts, and that is larger than an expert's own part. So experts differ
# little, as in a real meta.
_SHARED, _FAMILY, _OWN, _NOISE = 0.3, 0.25, 0.08, 0.35
_FAMILY_SIZE = 20
_NUM_WORD_CENTRES = 64
_WORD_MARGIN = 3.0  # at most so much is log Z above a word's own logit


@dataclass(frozen=True)
class ManyExperts:
    num_experts: int
    hidden_size: int
    num_positions: int
    num_word_positions: int
    num_iterations: int
    converged: bool
    final_loss: float
    fit_s: float = target("< 120 on 2 cores")
    held_out_accuracy: float = 0.0
    false_trigger_rate: float = 0.0


def many_experts(setting: Setting) -> ManyExperts:
    num_experts, dim = setting.size(1000, 20), setting.size(2048, 64)
    world = _World(num_experts, dim)
    states = world.states(num_per_expert=10, num_words=setting.size(5000, 200))
    held_out = world.states(num_per_expert=2, num_words=setting.size(2000, 100))
    began_s = time.perf_counter()
    fitted = fit_tokens(states)
    fit_s = time.perf_counter() - began_s
    scores = RouteScores.of(judge(held_out, fitted.tokens))
    return ManyExperts(
        num_experts=num_experts,
        hidden_size=dim,
        num_positions=len(states),
        num_word_positions=int((states.expert < 0).sum()),
        num_iterations=len(fitted.losses),
        converged=fitted.converged,
        final_loss=fitted.losses[-1],
        fit_s=fit_s,
        held_out_accuracy=scores.accuracy,
        false_trigger_rate=scores.false_trigger_rate,
    )


class _World:
    """States of queries lie around a centre for each expert, those of words around one of a few centres.
    Every query is one position."""

    def __init__(self, num_experts: int, dim: int) -> None:
        self._random = torch.Generator().manual_seed(0)
        num_families = -(-num_experts // _FAMILY_SIZE)
        families = self._normal(num_families, dim).repeat_interleave(_FAMILY_SIZE, dim=0)[:num_experts]
        experts = _SHARED * self._normal(dim) + _FAMILY * families + _OWN * self._normal(num_experts, dim)
        words = _SHARED * self._normal(dim) + _FAMILY * self._normal(_NUM_WORD_CENTRES, dim)
        self._centres = torch.cat([experts, words]) * (2048 / dim) ** 0.5
        self._num_experts = num_experts

    def states(self, num_per_expert: int, num_words: int) -> States:
        experts = torch.arange(self._num_experts).repeat_interleave(num_per_expert)
        words = torch.arange(num_words) % _NUM_WORD_CENTRES + self._num_experts
        centre = torch.cat([experts, words])
        expert = torch.where(centre < self._num_experts, centre, -1)
        log_z = 12 + self._normal(len(centre))
        word_logit = log_z - _WORD_MARGIN * torch.rand(len(centre), generator=self._random)
        return States(
            hidden=self._centres[centre] + _NOISE * self._normal(len(centre), self._centres.shape[1]),
            log_z=log_z,
            max_logit=word_logit,
            target_logit=torch.where(expert < 0, word_logit, 0.0),
            expert=expert,
            query=torch.arange(len(centre)),
            head_mean=0.02 * self._normal(self._centres.shape[1]),
            expert_names=tuple(f"expert-{index:04}" for index in range(self._num_experts)),
            meta_name="synthetic",
            meta_fingerprint="0" * 16,
            dataset_digest="0" * 16,
        )

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._random)
