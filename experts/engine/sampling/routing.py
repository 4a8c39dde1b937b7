"""Which requests of a batch hand over at this step: the part that both local engines share."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experts.engine.encoding.thoughts import ThoughtTracker
from experts.engine.request import EngineRequest
from experts.engine.routing_report import Candidates, ShadowWin
from experts.engine.sampling.logprobs import IdLogprobs
from experts.engine.sampling.routing_scores import (
    candidates_of,
    find_shadow_wins,
    shadow_probability,
    without_replaced,
)
from experts.engine.sampling.token_chooser import TokenChooser
from experts.head import Decision, ExpertTable, decide, distribution, mask_experts
from experts.logit_transform import LogitTransform
from experts.text.decoder import unfinished


@dataclass(frozen=True, slots=True)
class ExpertMasks:
    """One request's settings in the order of `table`: `allowed` bool [E], `bias` float32 [E] (logits).

    `shadow_bias`: float32 [S], −inf for shadows that it does not ask for; None if it asks for none.
    """

    table: ExpertTable
    allowed: Tensor
    bias: Tensor
    shadow_bias: Tensor | None


@dataclass(frozen=True, slots=True)
class Handover:
    """A hand-over in place, after `num_steps` tokens of the request. The expert reads the latest `num_read`
    tokens itself; the others it knows from the meta's cache."""

    num_steps: int
    num_read: int


@dataclass(slots=True)
class RequestState:
    """One request in the batch. Only the generation loop changes it while the request runs.

    `num_tokens`: length of the prompt plus the limit of new tokens; `num_steps`: tokens generated so far.
    `cut_character`: its bytes, if the text ends in the middle of a character. `expert`, `probability` and
    `distribution` are the outcome; with a `handover`, that expert writes on within the request. An
    `abandoned` request has no reader any more and ends at the next step.
    `candidates` are those of the hand-over, `first_candidates` those of the first decision, if asked for.
    `shadow_wins` are not reported yet, with positions counted from the first step; `won_shadows` are all.
    `num_cached_tokens`: of the prompt, found in the prefix cache.
    `chooser`: if the request has further rules; `logprobs`: of its tokens so far, if it asks for them;
    `thoughts`: if the model thinks.
    """

    request: EngineRequest
    seed: int
    num_tokens: int = 0
    abandoned: bool = False
    num_steps: int = 0
    cut_character: bytes = b""
    masks: ExpertMasks | None = None
    expert: str | None = None
    probability: float | None = None
    distribution: dict[str, float] | None = None
    handover: Handover | None = None
    candidates: Candidates | None = None
    first_candidates: Candidates | None = None
    shadow_wins: deque[ShadowWin] = field(default_factory=deque)
    won_shadows: set[str] = field(default_factory=set)
    chooser: TokenChooser | None = None
    logprobs: list[IdLogprobs] = field(default_factory=list)
    thoughts: ThoughtTracker | None = None
    num_cached_tokens: int = 0

    @property
    def may_hand_over(self) -> bool:
        """Whether an expert may win the next token.

        Not inside a character, which one model must finish; not inside what a grammar describes, nor among
        the model's thoughts; and not after a hand-over, which a step that began too early must not overwrite.
        """
        has_begun = self.num_steps > 0 and (self.request.only_at_start or self.request.has_grammar)
        is_thinking = self.thoughts is not None and self.thoughts.is_inside
        is_too_late = has_begun or is_thinking or self.expert is not None
        return self.request.is_routed and not self.cut_character and not is_too_late

    @property
    def has_new_observation(self) -> bool:
        """Whether the last step has something to report, even if no expert takes over."""
        has_won = bool(self.shadow_wins) and self.shadow_wins[-1].position == self.num_steps
        return has_won or (self.first_candidates is not None and not self.num_steps)

    def add_token(self, data: bytes) -> None:
        """Record the bytes of the latest token: the text may end inside a character, or a thought."""
        self.cut_character = unfinished(self.cut_character + data)
        if self.thoughts is not None:
            self.thoughts.add(data)


def route(
    words: Tensor,
    rows: Sequence[int],
    hidden: Tensor,
    table: ExpertTable,
    transform: LogitTransform,
    states: Sequence[RequestState],
) -> list[int]:
    """Decide for each request whether an expert takes over. Returns the rows that hand over.

    Args:
        words: raw logits [N, V], of any float type.
        rows: B rows of `words`; `rows[i]` belongs to `states[i]`.
        hidden: the head's inputs [B, d].
        table: the E experts.
        transform: what the model does to its head's scores.
        states: B requests that may hand over; the outcome is recorded in them.
    """
    masks = [_masks(state, table, hidden.device) for state in states]
    allowed = torch.stack([mask.allowed for mask in masks])
    bias = torch.stack([mask.bias for mask in masks])
    index = torch.tensor(rows, device=words.device)
    experts = table.logits(hidden, transform)
    if probes := [i for i, state in enumerate(states) if state.request.probe]:
        inputs = (index[probes], experts[probes], allowed[probes], bias[probes])
        _record_distributions(distribution(words, *inputs), table, [states[i] for i in probes])
    decision = decide(words, index, experts, allowed, bias)
    _record_winners(decision, table, states)
    reported = [i for i, state in enumerate(states) if _is_reported(state)]
    if reported or table.shadows is not None:
        step = _Step(words, index, mask_experts(experts + bias, allowed), decision.best_word, table, states)
        step.record_candidates(reported)
        step.record_shadow_wins(hidden, transform, [mask.shadow_bias for mask in masks])
    return [row for row, state in zip(rows, states, strict=True) if state.expert is not None]


def _record_winners(decision: Decision, table: ExpertTable, states: Sequence[RequestState]) -> None:
    winners, probabilities = decision.expert.tolist(), decision.probability.tolist()
    for state, winner, probability in zip(states, winners, probabilities, strict=True):
        if winner >= 0:
            state.expert, state.probability = table.names[winner], probability


def _masks(state: RequestState, table: ExpertTable, device: torch.device) -> ExpertMasks:
    """Built once for each request and table: with a thousand experts that is too slow for every step."""
    if state.masks is None or state.masks.table is not table:
        allowed = set(state.request.allowed)
        bias = [state.request.bias.get(name, 0.0) for name in table.names]
        state.masks = ExpertMasks(
            table,
            torch.tensor([name in allowed for name in table.names], dtype=torch.bool, device=device),
            torch.tensor(bias, dtype=torch.float32, device=device),
            _shadow_bias(state.request, table, device),
        )
    return state.masks


def _shadow_bias(request: EngineRequest, table: ExpertTable, device: torch.device) -> Tensor | None:
    if table.shadows is None or not request.shadows:
        return None
    asked, bias = frozenset(request.shadows), request.bias
    values = [bias.get(name, 0.0) if name in asked else -torch.inf for name in table.shadows.names]
    return torch.tensor(values, dtype=torch.float32, device=device)


def _is_reported(state: RequestState) -> bool:
    """Whether this decision's candidates are: a hand-over, or the first decision if the request asks."""
    if state.request.probe:
        return False
    return state.expert is not None or (state.request.reports_start and not state.num_steps)


@dataclass(frozen=True, slots=True)
class _Step:
    """The decisions of B rows: `words` [N, V], `rows` int64 [B], `experts` float32 [B, E] with −inf for those
    that are not allowed, `best_word` float [B]."""

    words: Tensor
    rows: Tensor
    experts: Tensor
    best_word: Tensor
    table: ExpertTable
    states: Sequence[RequestState]

    def record_candidates(self, reported: Sequence[int]) -> None:
        if not reported:
            return
        inputs = (self.words, self.rows[reported], self.experts[reported], self.best_word[reported])
        for i, candidates in zip(reported, candidates_of(*inputs, self.table.names), strict=True):
            state = self.states[i]
            if state.expert is None:
                state.first_candidates = candidates
            else:
                state.candidates = candidates

    def record_shadow_wins(
        self, hidden: Tensor, transform: LogitTransform, biases: Sequence[Tensor | None]
    ) -> None:
        """`hidden`: the head's inputs [B, d]; `biases`: as in `ExpertMasks`."""
        asking = [i for i, bias in enumerate(biases) if bias is not None]
        if self.table.shadows is None or not asking:
            return
        shadows = self.table.shadows.logits(hidden[asking], transform)
        shadows += torch.stack([bias for bias in biases if bias is not None])
        experts, best_word = self.experts[asking], self.best_word[asking]
        for row, shadow in find_shadow_wins(shadows, experts, best_word, self.table):
            state, name = self.states[asking[row]], self.table.shadows.names[shadow]
            if name not in state.won_shadows:
                others = without_replaced(experts[row : row + 1], self.table, shadow)
                index = self.rows[asking[row]].view(1)
                probability = shadow_probability(self.words, index, others, shadows[row, shadow])
                state.won_shadows.add(name)
                state.shadow_wins.append(ShadowWin(name, state.expert, probability, state.num_steps))


def _record_distributions(probabilities: Tensor, table: ExpertTable, states: Sequence[RequestState]) -> None:
    """`probabilities`: float [B, E]."""
    for state, row in zip(states, probabilities.tolist(), strict=True):
        by_name = dict(zip(table.names, row, strict=True))
        state.distribution = {name: p for name, p in by_name.items() if name in state.request.allowed}
