"""Which requests of a batch hand over at this step: the part that both local engines share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experts.engine.encoding.thoughts import ThoughtTracker
from experts.engine.request import EngineRequest
from experts.engine.sampling.logprobs import IdLogprobs
from experts.engine.sampling.token_chooser import TokenChooser
from experts.head import ExpertTable, decide, distribution
from experts.text.decoder import unfinished


@dataclass(frozen=True, slots=True)
class ExpertMasks:
    """One request's settings in the order of `table`: `allowed` bool [E], `bias` float32 [E] (logits)."""

    table: ExpertTable
    allowed: Tensor
    bias: Tensor


@dataclass(slots=True)
class RequestState:
    """One request in the batch. Only the generation loop changes it while the request runs.

    `num_tokens`: length of the prompt plus the limit of new tokens; `num_steps`: tokens generated so far.
    `cut_character`: its bytes, if the text ends in the middle of a character. `expert`, `probability` and
    `distribution` are the outcome. An `abandoned` request has no reader any more and ends at the next step.
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
    chooser: TokenChooser | None = None
    logprobs: list[IdLogprobs] = field(default_factory=list)
    thoughts: ThoughtTracker | None = None

    @property
    def may_hand_over(self) -> bool:
        """Whether an expert may win the next token.

        Not inside a character or a word that is written again, which one model must finish; not inside what
        a grammar describes, nor among the model's thoughts; and not after a hand-over, which a step that
        began too early must not overwrite.
        """
        has_begun = self.num_steps > 0 and (self.request.only_at_start or self.request.has_grammar)
        is_thinking = self.thoughts is not None and self.thoughts.is_inside
        is_healing = self.num_steps > 0 and self.chooser is not None and bool(self.chooser.dropped)
        is_too_late = has_begun or is_thinking or self.expert is not None
        return bool(self.request.allowed) and not self.cut_character and not is_healing and not is_too_late

    def add_token(self, data: bytes) -> None:
        """Record the bytes of the latest token: the text may end inside a character, or a thought."""
        self.cut_character = unfinished(self.cut_character + data)
        if self.thoughts is not None:
            self.thoughts.add(data)


def route(
    words: Tensor, rows: Sequence[int], experts: Tensor, table: ExpertTable, states: Sequence[RequestState]
) -> list[int]:
    """Decide for each request whether an expert takes over, and record the outcome in its state.

    Args:
        words: raw logits [N, V], of any float type.
        rows: B rows of `words`; `rows[i]` belongs to `states[i]`.
        experts: raw logits, float32 [B, E].
        table: the E experts.
        states: B requests that may hand over.

    Returns:
        The rows that hand over; their states have an `expert` and a `probability`.
    """
    masks = [_masks(state, table, experts.device) for state in states]
    allowed = torch.stack([mask.allowed for mask in masks])
    bias = torch.stack([mask.bias for mask in masks])
    index = torch.tensor(rows, device=words.device)
    if probes := [i for i, state in enumerate(states) if state.request.probe]:
        found = distribution(words, index[probes], experts[probes], allowed[probes], bias[probes])
        _record_distributions(found, table, [states[i] for i in probes])
    decision = decide(words, index, experts, allowed, bias)
    winners = decision.expert.tolist()
    for state, winner, probability in zip(states, winners, decision.probability.tolist(), strict=True):
        if winner >= 0:
            state.expert, state.probability = table.names[winner], probability
    return [row for row, winner in zip(rows, winners, strict=True) if winner >= 0]


def _masks(state: RequestState, table: ExpertTable, device: torch.device) -> ExpertMasks:
    """Built once for each request and table: with a thousand experts that is too slow for every step."""
    if state.masks is None or state.masks.table is not table:
        allowed = set(state.request.allowed)
        bias = [state.request.bias.get(name, 0.0) for name in table.names]
        state.masks = ExpertMasks(
            table,
            torch.tensor([name in allowed for name in table.names], device=device),
            torch.tensor(bias, device=device),
        )
    return state.masks


def _record_distributions(probabilities: Tensor, table: ExpertTable, states: Sequence[RequestState]) -> None:
    """`probabilities`: float [B, E]."""
    for state, row in zip(states, probabilities.tolist(), strict=True):
        by_name = dict(zip(table.names, row, strict=True))
        state.distribution = {name: p for name, p in by_name.items() if name in state.request.allowed}
