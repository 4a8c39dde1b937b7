"""The head inside vLLM's workers, on a batch laid out like that of vLLM's model runner."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from experts.engine.grammar.compiler import GrammarCompiler
from experts.engine.request import EngineRequest, Grammar, GrammarKind, SamplingOptions
from experts.engine.sampling.rules import TokenRules
from experts.engine.vllm.decision_store import DecisionStore, RoutingDecision
from experts.engine.vllm.worker import RoutingHead
from experts.engine.vllm.worker_request import extra_args
from experts.head import ExpertTable
from experts.text.decoder import TokenDecoder
from tests.tiny.tokenizers import byte_level

DIM, NUM_WORDS, END_ID = 4, 6, 2
NUM_PROMPT_TOKENS = 5
TOKENIZER = byte_level().backend_tokenizer
DECODER = TokenDecoder(TOKENIZER)
WORDS = torch.eye(NUM_WORDS, DIM)


class LogitsProcessor(nn.Module):
    """Has the parts of vLLM's own that the head uses; test_engine_heads.py runs the real one."""

    org_vocab_size = NUM_WORDS

    def __init__(self, scale: float = 1.0, soft_cap: float | None = None) -> None:
        super().__init__()
        self.scale = scale
        self.soft_cap = soft_cap

    def forward(self, weight: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor | None:
        logits = self._get_logits(hidden, weight)
        if logits is None:
            return None
        if self.soft_cap is not None:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        logits *= self.scale
        return logits

    def _get_logits(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor | None:
        return hidden @ weight.T.to(hidden.dtype)


class Model(nn.Module):
    def __init__(self, processor: LogitsProcessor | None = None) -> None:
        super().__init__()
        self.logits_processor = processor or LogitsProcessor()

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.logits_processor(WORDS, hidden)


@dataclass
class Processors:
    """vLLM's logits processors; its own ones are not needed here."""

    non_argmax_invariant: list[Any] = field(default_factory=list)


@dataclass
class Runner:
    """The attributes of vLLM's model runner that the head reads."""

    model: Model = field(default_factory=Model)
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    requests: dict[str, Any] = field(default_factory=dict)
    num_outputs: Counter[str] = field(default_factory=Counter)
    input_batch: Any = field(default_factory=lambda: SimpleNamespace(logitsprocs=Processors()))

    def get_model(self) -> Model:
        return self.model

    def add(self, request: EngineRequest, key: str, rules: TokenRules | None = None) -> None:
        params = SimpleNamespace(extra_args=extra_args(request, key, rules))
        self.requests[key] = SimpleNamespace(sampling_params=params, prompt_token_ids=[0] * NUM_PROMPT_TOKENS)

    def step(self, hidden: dict[str, torch.Tensor], *, unfinished: tuple[str, ...] = (), last_id: int = 0):
        """Logits [B, V] of the requests in `hidden`, as vLLM samples from them; each has two input tokens,
        `last_id` is the second."""
        names = list(hidden)
        num_tokens = np.array([NUM_PROMPT_TOKENS + self.num_outputs[name] for name in names])
        self.input_batch = SimpleNamespace(
            req_ids=names,
            num_reqs=len(names),
            num_prompt_tokens=np.full(len(names), NUM_PROMPT_TOKENS),
            num_computed_tokens_cpu=num_tokens - 2,
            logitsprocs=self.input_batch.logitsprocs,
        )
        self.num_outputs.update(name for name in names if name not in unfinished)
        self.discard_request_mask = SimpleNamespace(np=np.array([name in unfinished for name in names]))
        self.query_start_loc = SimpleNamespace(np=np.arange(len(names) + 1) * 2)
        self.input_ids = SimpleNamespace(gpu=torch.tensor([0, last_id] * len(names)))
        processors = self.input_batch.logitsprocs.non_argmax_invariant
        for processor in processors:
            processor.update_state(None)
        logits = self.model.compute_logits(torch.stack(list(hidden.values())))
        for processor in processors if logits is not None else ():
            logits = processor.apply(logits)
        return logits


@pytest.fixture
def runner() -> Runner:
    return Runner()


@pytest.fixture
def decisions(tmp_path: Path) -> DecisionStore:
    return DecisionStore(tmp_path)


@pytest.fixture
def head(runner: Runner, decisions: DecisionStore) -> RoutingHead:
    return routing_head(runner, decisions)


def routing_head(runner: Runner, decisions: DecisionStore | None = None) -> RoutingHead:
    return RoutingHead(runner, decisions, DECODER, GrammarCompiler(DECODER, END_ID), END_ID)


def table(table_version: int = 1, **vectors: list[float]) -> ExpertTable:
    weight = torch.tensor(list(vectors.values()))
    return ExpertTable(table_version, tuple(vectors), weight, torch.zeros(len(vectors)))


LAW = table(law=[0.0, 0.0, 0.0, 2.0])
TO_LAW, TO_WORD = torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 0.0])
ALLOWS_LAW = EngineRequest("r", temperature=0.0, allowed=("law",))


def test_a_row_that_hands_over_can_only_end_and_its_expert_is_in_the_store(runner, head, decisions):
    head.install(LAW)
    for key, request in (("a", ALLOWS_LAW), ("b", ALLOWS_LAW), ("c", EngineRequest("r", temperature=0.0))):
        runner.add(request, key)
    logits = runner.step({"a": TO_LAW, "b": TO_WORD, "c": TO_LAW})
    assert logits.argmax(dim=-1).tolist() == [END_ID, 1, 3]
    assert logits[0].isinf().sum() == NUM_WORDS - 1
    assert torch.equal(logits[1:], torch.stack([TO_WORD, TO_LAW]) @ WORDS.T)
    probability = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 2.0]).softmax(dim=-1)[-1].item()
    decision = decisions.take("a")
    assert decision is not None
    assert (decision.step, decision.expert) == (0, "law")
    assert decision.probability == pytest.approx(probability)
    assert (decisions.take("a"), decisions.take("b"), decisions.take("c")) == (None, None, None)


def test_a_step_after_a_hand_over_posts_nothing(runner, head, decisions):
    """With asynchronous scheduling vLLM begins the next step before it knows that a row has ended."""
    head.install(LAW)
    runner.add(ALLOWS_LAW, "a")
    runner.step({"a": TO_WORD})
    whole = TOKENIZER.encode("e").ids[0]
    for _ in range(3):
        runner.step({"a": TO_LAW}, last_id=whole)
    decision = decisions.take("a")
    assert decision is not None
    assert (decision.step, decision.expert) == (1, "law")


def test_a_step_that_vllm_repeats_is_decided_anew(runner, head, decisions):
    head.install(LAW)
    runner.add(ALLOWS_LAW, "a")
    runner.step({"a": TO_WORD})
    (half,) = TOKENIZER.encode("é").ids[:1]
    whole = TOKENIZER.encode("e").ids[0]
    runner.step({"a": TO_LAW}, last_id=whole)
    runner.num_outputs["a"] = 1  # a preemption undid the hand-over
    assert runner.step({"a": TO_WORD}, last_id=whole).argmax().item() == 1
    runner.step({"a": TO_WORD}, last_id=half)
    runner.num_outputs["a"] = 2
    assert runner.step({"a": TO_LAW}, last_id=half).argmax().item() == 3  # still inside the character
    assert runner.step({"a": TO_LAW}, last_id=whole).argmax().item() == END_ID
    decision = decisions.take("a")
    assert decision is not None
    assert decision.step == 3


def test_an_incomplete_prefill_decides_nothing(runner, head, decisions):
    head.install(LAW)
    runner.add(EngineRequest("r", temperature=0.0, allowed=("law",), only_at_start=True), "a")
    logits = runner.step({"a": TO_LAW}, unfinished=("a",))
    assert torch.equal(logits, TO_LAW[None] @ WORDS.T)
    assert decisions.take("a") is None
    assert runner.step({"a": TO_LAW}).argmax().item() == END_ID  # the first token


def test_no_expert_wins_inside_a_character(runner, head):
    """It is known from the batch's input ids, because vLLM's lists may lack the latest token."""
    (half,) = TOKENIZER.encode("é").ids[:1]
    head.install(LAW)
    runner.add(ALLOWS_LAW, "a")
    runner.step({"a": TO_WORD})
    assert runner.step({"a": TO_LAW}, last_id=half).argmax().item() == 3
    whole = TOKENIZER.encode("e").ids[0]
    assert runner.step({"a": TO_LAW}, last_id=whole).argmax().item() == END_ID


def test_running_requests_get_a_newer_table_but_not_an_older_one(runner, head):
    runner.add(ALLOWS_LAW, "a")
    assert runner.step({"a": TO_LAW}).argmax().item() == 3
    head.install(table(2, chem=[0.0, 0.0, 0.0, 9.0], law=[0.0, 0.0, 0.0, 2.0]))
    head.install(table(1, chem=[0.0, 0.0, 0.0, 9.0]))
    whole = TOKENIZER.encode("e").ids[0]
    assert runner.step({"a": TO_LAW}, last_id=whole).argmax().item() == END_ID


def test_other_ranks_decide_the_same_and_post_nothing(runner):
    routing_head(runner).install(LAW)
    runner.add(ALLOWS_LAW, "a")
    assert runner.step({"a": TO_LAW}).argmax().item() == END_ID


def test_a_rank_without_logits_returns_none(runner, monkeypatch):
    monkeypatch.setattr(LogitsProcessor, "_get_logits", lambda self, hidden, weight: None)
    routing_head(runner).install(LAW)
    runner.add(ALLOWS_LAW, "a")
    assert runner.step({"a": TO_LAW}) is None


def test_a_forward_pass_without_requests_is_unchanged(runner, head):
    head.install(LAW)
    runner.add(ALLOWS_LAW, "a")
    runner.step({"a": TO_WORD})
    profiling = torch.stack([TO_LAW] * 3)
    assert torch.equal(runner.model.compute_logits(profiling), profiling @ WORDS.T)


def test_finished_requests_are_forgotten(runner, head):
    for number in range(200):
        runner.add(ALLOWS_LAW, str(number))
        runner.step({str(number): TO_WORD})
        del runner.requests[str(number)]
    assert len(head._states) < 40


@pytest.mark.parametrize(("scale", "soft_cap"), [(1.0, None), (0.25, None), (1.0, 2.0), (0.5, 3.0)])
def test_experts_are_scaled_and_capped_like_words(decisions, scale, soft_cap):
    runner = Runner(Model(LogitsProcessor(scale, soft_cap)))
    routing_head(runner, decisions).install(LAW)
    runner.add(ALLOWS_LAW, "a")
    scores = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 2.0])
    capped = scores if soft_cap is None else torch.tanh(scores / soft_cap) * soft_cap
    assert runner.step({"a": TO_LAW}).argmax().item() == END_ID
    decision = decisions.take("a")
    assert decision is not None
    assert decision.probability == pytest.approx((capped * scale).softmax(dim=-1)[-1].item())


def test_logits_that_are_another_function_of_the_heads_scores_take_no_experts(runner, head, monkeypatch):
    monkeypatch.setattr(
        LogitsProcessor, "forward", lambda self, weight, hidden: self._get_logits(hidden, weight) + 1
    )
    with pytest.raises(ValueError, match="another function"):
        head.install(LAW)
    head.install(table(2))
    runner.add(ALLOWS_LAW, "a")
    assert runner.step({"a": TO_LAW}).argmax().item() == 3


def test_experts_score_what_the_head_gets_even_if_the_model_changes_it_first(monkeypatch, runner, head):
    """As MiMo's `compute_logits` normalises the hidden states."""
    compute = head._head._compute_logits
    monkeypatch.setattr(head._head, "_compute_logits", lambda hidden: compute(-hidden))
    head.install(LAW)
    runner.add(ALLOWS_LAW, "a")
    assert runner.step({"a": TO_LAW}).argmax().item() != END_ID
    assert runner.step({"a": -TO_LAW}, last_id=TOKENIZER.encode("e").ids[0]).argmax().item() == END_ID


def test_biases_below_the_resolution_of_bfloat16_count():
    """Regression: from 16 to 32 bfloat16 has steps of 0.125, so a tie went to the word."""
    runner = Runner(dtype=torch.bfloat16)
    head = routing_head(runner)
    same = [0.0, 0.0, 0.0, 1.0]  # as the row of the best word
    for version, bias, chosen in ((1, 0.0, 3), (2, 0.01, END_ID), (3, -0.01, 3)):
        head.install(ExpertTable(version, ("law",), torch.tensor([same]), torch.tensor([bias])))
        key = str(version)
        runner.add(ALLOWS_LAW, key)
        assert runner.step({key: 20 * TO_LAW.bfloat16()}).argmax().item() == chosen


@given(seed=st.integers(0, 2**63 - 1), position=st.integers(0, 50), crowd=st.integers(0, 3))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_seeded_sampling_depends_only_on_seed_and_position(seed: int, position: int, crowd: int):
    def sampled(num_others: int, start: int, num_steps: int) -> int:
        runner = Runner()
        routing_head(runner)
        runner.add(EngineRequest("r", seed=seed, position=start), "a")
        others = {f"b{i}": torch.randn(DIM) for i in range(num_others)}
        for i, name in enumerate(others):
            runner.add(EngineRequest("r", seed=i), name)
        for _ in range(num_steps):
            logits = runner.step({**others, "a": torch.tensor([0.1, 0.2, 0.3, 0.4])})
        return int(logits[-1].argmax())

    assert (
        sampled(0, position, 1)
        == sampled(crowd, position, 1)
        == sampled(crowd, max(0, position - 2), min(2, position) + 1)
    )


def test_rules_follow_a_step_that_vllm_repeats(runner, head):
    """The tokens that it has undone count neither for penalties nor for a grammar."""
    words = [str(TOKENIZER.id_to_token(i)) for i in range(4)]
    texts = json.dumps([words[0] + words[1] + words[0], 3 * words[1], words[0] + 2 * words[3]])
    options = SamplingOptions(grammar=Grammar(GrammarKind.CHOICE, texts), frequency_penalty=1.0)
    runner.add(EngineRequest("r", temperature=0.0, sampling=options), "a", rules_with(options))
    hidden = torch.tensor([3.0, 2.5, 0.0, 1.8])
    chosen = [int(runner.step({"a": hidden}).argmax()) for _ in range(3)]
    assert chosen == [0, 1, 0]
    for num_kept in (2, 1, 0):
        runner.num_outputs["a"] = num_kept  # a preemption undid the steps after these
        again = [int(runner.step({"a": hidden}).argmax()) for _ in range(3 - num_kept)]
        assert again == chosen[num_kept:]
    assert runner.step({"a": hidden}).argmax().item() == END_ID
    runner.step({"a": hidden})  # vLLM may have begun a step after the end


def rules_with(options: SamplingOptions) -> TokenRules:
    return TokenRules(options, (END_ID,), (END_ID,), 16)


def test_logits_of_a_prompt_are_those_of_the_model(runner, head):
    """vLLM computes them after those of the step, for log-probabilities; there may be as many as requests."""
    head.install(LAW)
    runner.add(ALLOWS_LAW, "a")
    runner.step({"a": TO_WORD})
    assert torch.equal(runner.model.compute_logits(TO_LAW[None]), TO_LAW[None] @ WORDS.T)


def test_requests_without_experts_or_seeded_sampling_send_the_worker_nothing():
    assert extra_args(EngineRequest("r"), "1") is None
    assert extra_args(EngineRequest("r", temperature=0.0, seed=3), "1") is None


def test_a_store_keeps_only_the_given_decisions_and_leaves_nothing_behind():
    decisions = DecisionStore.create()
    decision = RoutingDecision(3, "law", 0.5, None)
    for key in ("1", "2", "3"):
        decisions.post(key, decision)
    decisions.keep_only({"2"})
    assert [decisions.take(key) for key in ("1", "2", "3", "2")] == [None, decision, None, None]
    decisions.post("4", RoutingDecision(0, None, None, {"law": 0.5}))
    assert decisions.take("4") == RoutingDecision(0, None, None, {"law": 0.5})
    assert decisions.folder.stat().st_mode & 0o077 == 0
    decisions.remove()
    assert not decisions.folder.exists()
