"""What runs inside vLLM's workers: expert logits beside the word logits, and the decision between them.

The decision is made where vLLM computes the logits of a step, before its own processors see them, and applied
after them. If a row hands over, all its logits but one are masked: that of an id which ends the turn. The
decision store then says that it was an expert. So no id above the vocabulary is ever fed to an embedding,
checkpoints need no spare rows, and no word loses probability to a marker token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from experts.engine.grammar.compiler import GrammarCompiler
from experts.engine.sampling.gumbel import choose_tokens
from experts.engine.sampling.routing import RequestState, route
from experts.engine.sampling.rules import TokenRules
from experts.engine.vllm.adapter_rows import AdapterRows
from experts.engine.vllm.decision_store import DecisionStore, Observations, RoutingDecision
from experts.engine.vllm.grammars import Outcome, outcome_in_worker
from experts.engine.vllm.model_head import ModelHead
from experts.engine.vllm.plain_table import PlainRows, from_plain
from experts.engine.vllm.worker_request import to_state
from experts.head import ExpertTable
from experts.logit_transform import LogitTransform
from experts.text.decoder import TokenDecoder


class ExpertWorker:
    """Mixed into vLLM's worker class. The engine calls these methods by name, on all ranks, between steps."""

    model_runner: Any

    def open_expert_head(self, folder: str, tokenizer: str, end_id: int, shown: Sequence[str]) -> None:
        """Score experts from now on.

        Args:
            folder: of the decision store.
            tokenizer: as JSON (`Tokenizer.to_str`).
            end_id: a token id that ends a turn.
            shown: special tokens that mark thoughts or tool calls.
        """
        from vllm.distributed.parallel_state import get_pp_group, get_tp_group

        # Ranks of the last pipeline stage compute the same decision from the same gathered logits, so only
        # one of them posts it. The other stages have no logits.
        is_poster = get_pp_group().is_last_rank and get_tp_group().is_first_rank
        decisions = DecisionStore(Path(folder)) if is_poster else None
        decoder = TokenDecoder(Tokenizer.from_str(tokenizer))
        self.decoder = decoder.showing(shown)
        self.grammars = GrammarCompiler(decoder, end_id)
        self.expert_head = RoutingHead(self.model_runner, decisions, self.decoder, self.grammars, end_id)
        self.adapter_rows = AdapterRows(self.model_runner)

    def prepare_grammar(self, rules: dict[str, Any]) -> Outcome:
        """Compile the grammar of these `TokenRules` beside the steps, and tell whether that is done."""
        return outcome_in_worker(self.grammars, TokenRules.of_plain(rules), self.decoder)

    def install_experts(
        self,
        dim: int,
        table_version: int,
        experts: PlainRows,
        shadows: PlainRows,
        replaces: Sequence[str | None],
    ) -> None:
        """As `from_plain`."""
        self.expert_head.install(from_plain(dim, table_version, experts, shadows, replaces))


class RoutingHead:
    """Replaces the model's `compute_logits`, and is the last of vLLM's logits processors.

    Without `decisions` it decides but posts nothing.
    """

    def __init__(
        self,
        runner: Any,
        decisions: DecisionStore | None,
        decoder: TokenDecoder,
        grammars: GrammarCompiler,
        end_id: int,
    ) -> None:
        model = runner.get_model()
        self._runner = runner
        self._head = ModelHead(model)
        self._transform = LogitTransform()
        self._decisions = decisions
        self._decoder = decoder
        self._grammars = grammars
        self._end_id = end_id
        self._generator = torch.Generator(device=runner.device)
        self._states: dict[str, RequestState | None] = {}
        self._table = ExpertTable(0, (), torch.zeros(0, 0), torch.zeros(0))
        self._is_new_step = False
        self._chosen: dict[int, int] = {}  # by row of the step
        model.compute_logits = self
        runner.input_batch.logitsprocs.non_argmax_invariant.append(self)

    def install(self, table: ExpertTable) -> None:
        """Raises ValueError if experts cannot be scored beside this model's words."""
        if table.table_version < self._table.table_version:  # two tables may arrive in either order
            return
        if table.scores_any:
            dim = table.weight.shape[1]
            hidden = torch.zeros(1, dim, dtype=self._runner.dtype, device=self._runner.device)
            self._transform = self._head.measure(hidden)
        self._table = table.on(self._runner.device)

    def __call__(self, hidden: Tensor, *args: Any) -> Tensor | None:
        """Last hidden states [B, d] → logits [B, V] of the model; also decides the rows of a step."""
        logits = self._head(hidden, *args)
        if logits is None or not self._is_new_step or len(logits) != self._runner.input_batch.num_reqs:
            return logits
        self._is_new_step = False
        states = self._batch()
        self._chosen = self._route(logits, states)
        self._chosen |= self._choose(logits, {i: s for i, s in states.items() if s.expert is None})
        return logits

    def update_state(self, batch_update: Any) -> None:
        """vLLM calls this before each step. Logits that it computes after those of the step are of prompts,
        whose log-probabilities a client wants."""
        self._is_new_step, self._chosen = True, {}

    def apply(self, logits: Tensor) -> Tensor:
        """Logits float32 [B, V], changed in place: a row that is decided keeps one token.

        vLLM calls this when it has taken the log-probabilities and has forbidden what a request forbids.
        """
        if self._chosen:
            rows = list(self._chosen)
            logits[rows] = float("-inf")
            logits[rows, list(self._chosen.values())] = 0.0
        return logits

    def is_argmax_invariant(self) -> bool:
        return False

    def _batch(self) -> dict[int, RequestState]:
        """The requests with routing or seeded sampling that get a token at this step, by row."""
        runner = self._runner
        if len(self._states) > 2 * len(runner.requests) + 16:
            self._states = {name: state for name, state in self._states.items() if name in runner.requests}
        states = {i: self._state(name) for i, name in enumerate(runner.input_batch.req_ids)}
        is_prefilling = runner.discard_request_mask.np  # the rest of the prompt follows in a later step
        batch = {i: state for i, state in states.items() if state is not None and not is_prefilling[i]}
        self._record_steps(batch)
        return batch

    def _state(self, name: str) -> RequestState | None:
        if name not in self._states:
            request = self._runner.requests[name]
            prompt = request.prompt_token_ids
            self._states[name] = to_state(
                request.sampling_params.extra_args, prompt, self._grammars, self._decoder
            )
        return self._states[name]

    def _record_steps(self, states: Mapping[int, RequestState]) -> None:
        """Note which token of its answer each row gets now, and the one before it.

        The number is that of vLLM's own count, because vLLM may undo a step when it preempts a request.
        """
        batch, starts = self._runner.input_batch, self._runner.query_start_loc.np
        advanced = {}
        for i, state in states.items():
            num_inputs = batch.num_computed_tokens_cpu[i] + starts[i + 1] - starts[i]
            if _begin_step(state, int(num_inputs - batch.num_prompt_tokens[i])) and state.request.is_routed:
                advanced[i] = state
        self._record_tokens(advanced)

    def _record_tokens(self, states: Mapping[int, RequestState]) -> None:
        """The model's input holds the last token of each row. vLLM's own lists of output tokens may lack it
        under asynchronous scheduling."""
        if not states:
            return
        ends = self._runner.query_start_loc.np
        last_ids = self._runner.input_ids.gpu[[int(ends[i + 1]) - 1 for i in states]].tolist()
        for state, last_id in zip(states.values(), last_ids, strict=True):
            state.add_token(self._decoder.bytes_of(last_id))

    def _route(self, logits: Tensor, states: Mapping[int, RequestState]) -> dict[int, int]:
        """The end id for each row that hands over."""
        table = self._table
        routed = {i: state for i, state in states.items() if table.scores_any and state.may_hand_over}
        if not routed:
            return {}
        rows, hidden = list(routed), self._head.hidden
        inputs = hidden[rows] if len(rows) < len(hidden) else hidden
        handed_over = route(logits, rows, inputs, table, self._transform, list(routed.values()))
        for i, state in routed.items():
            if i in handed_over or state.request.probe:
                self._post(state)
            if state.has_new_observation:
                self._observe(state)
        return dict.fromkeys(handed_over, self._end_id)

    def _choose(self, logits: Tensor, states: Mapping[int, RequestState]) -> dict[int, int]:
        """The token of each row that vLLM's own sampling would not choose as its request asks."""
        seeded = {i: state for i, state in states.items() if state.request.seed is not None}
        return choose_tokens(logits, seeded, self._generator)

    def _post(self, state: RequestState) -> None:
        if self._decisions is not None:
            decision = RoutingDecision(
                state.num_steps, state.expert, state.probability, state.distribution, state.candidates
            )
            self._decisions.post(state.request.request_id, decision)

    def _observe(self, state: RequestState) -> None:
        if self._decisions is not None:
            observations = Observations(state.first_candidates, tuple(state.shadow_wins))
            self._decisions.observe(state.request.request_id, observations)


def _begin_step(state: RequestState, step: int) -> bool:
    """Whether the row has one more token than at the last step. If not, vLLM has undone that step, and its
    outcome too. One more after a hand-over means that vLLM began the step before it knew of the end."""
    is_next = step > state.num_steps
    if not is_next:
        state.expert = None
        if state.chooser is not None:
            state.chooser.keep_only(step)
    state.num_steps = step
    return is_next
