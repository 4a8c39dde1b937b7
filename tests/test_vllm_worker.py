"""The head inside vLLM's workers, on a batch that is laid out as vLLM's model runner does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experts.engine.base import Call
from experts.engine.mailbox import Decided, Mailbox
from experts.engine.vllm_worker import RoutingHead, extra_args
from experts.head import ExpertTable
from tests.tiny_tokenizers import byte_level

DIM, NUM_WORDS, END_ID = 4, 6, 2
TOKENIZER = byte_level().backend_tokenizer
WORDS = torch.eye(NUM_WORDS, DIM)


class Model:
    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ WORDS.T


@dataclass
class Runner:
    """What the head reads of vLLM's model runner. A request's last fed token is `last_ids[name]`."""

    model: Model = field(default_factory=Model)
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    requests: dict[str, Any] = field(default_factory=dict)

    def get_model(self) -> Model:
        return self.model

    def add(self, call: Call, key: str) -> None:
        params = SimpleNamespace(extra_args=extra_args(call, key))
        self.requests[key] = SimpleNamespace(sampling_params=params)

    def step(self, hidden: dict[str, torch.Tensor], *, unfinished: tuple[str, ...] = (), last_id: int = 0):
        """[B, V] of the requests in `hidden`; each fed two tokens, of which `last_id` is the last."""
        names = list(hidden)
        self.input_batch = SimpleNamespace(req_ids=names, num_reqs=len(names))
        self.discard_request_mask = SimpleNamespace(np=np.array([name in unfinished for name in names]))
        self.query_start_loc = SimpleNamespace(np=np.arange(len(names) + 1) * 2)
        self.input_ids = SimpleNamespace(gpu=torch.tensor([0, last_id] * len(names)))
        return self.model.compute_logits(torch.stack(list(hidden.values())))


@pytest.fixture
def runner() -> Runner:
    return Runner()


@pytest.fixture
def mailbox(tmp_path: Path) -> Mailbox:
    return Mailbox(tmp_path)


@pytest.fixture
def head(runner: Runner, mailbox: Mailbox) -> RoutingHead:
    return RoutingHead(runner, mailbox, TOKENIZER, END_ID)


def table(epoch: int = 1, **vectors: list[float]) -> ExpertTable:
    weight = torch.tensor(list(vectors.values()))
    return ExpertTable(epoch, tuple(vectors), weight, torch.zeros(len(vectors)))


LAW = table(law=[0.0, 0.0, 0.0, 2.0])
TO_LAW, TO_WORD = torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 0.0])
ASKS = Call("r", temperature=0.0, allowed=("law",))


def test_a_row_that_hands_over_can_only_end_and_the_mailbox_says_who_goes_on(runner, head, mailbox):
    head.install(LAW)
    for key, call in (("a", ASKS), ("b", ASKS), ("c", Call("r", temperature=0.0))):
        runner.add(call, key)
    logits = runner.step({"a": TO_LAW, "b": TO_WORD, "c": TO_LAW})
    assert logits.argmax(dim=-1).tolist() == [END_ID, 1, 3]
    assert logits[0].isinf().sum() == NUM_WORDS - 1
    assert torch.equal(logits[1:], torch.stack([TO_WORD, TO_LAW]) @ WORDS.T)
    probability = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 2.0]).softmax(dim=-1)[-1].item()
    decided = mailbox.take("a")
    assert decided is not None
    assert (decided.step, decided.expert) == (0, "law")
    assert decided.probability == pytest.approx(probability)
    assert (mailbox.take("a"), mailbox.take("b"), mailbox.take("c")) == (None, None, None)


def test_a_prompt_that_is_not_read_to_its_end_decides_nothing(runner, head, mailbox):
    head.install(LAW)
    runner.add(Call("r", temperature=0.0, allowed=("law",), only_at_start=True), "a")
    unread = runner.step({"a": TO_LAW}, unfinished=("a",))
    assert torch.equal(unread, TO_LAW[None] @ WORDS.T)
    assert mailbox.take("a") is None
    assert runner.step({"a": TO_LAW}).argmax().item() == END_ID  # this is its start


def test_no_expert_wins_inside_a_character(runner, head):
    """The batch's own token ids tell, for vLLM's lists may lack the newest."""
    (half,) = TOKENIZER.encode("é").ids[:1]
    head.install(LAW)
    runner.add(ASKS, "a")
    runner.step({"a": TO_WORD})
    assert runner.step({"a": TO_LAW}, last_id=half).argmax().item() == 3
    whole = TOKENIZER.encode("e").ids[0]
    assert runner.step({"a": TO_LAW}, last_id=whole).argmax().item() == END_ID


def test_a_table_is_replaced_for_requests_under_way_but_not_by_an_older_one(runner, head):
    runner.add(ASKS, "a")
    assert runner.step({"a": TO_LAW}).argmax().item() == 3
    head.install(table(2, chem=[0.0, 0.0, 0.0, 9.0], law=[0.0, 0.0, 0.0, 2.0]))
    head.install(table(1, chem=[0.0, 0.0, 0.0, 9.0]))
    whole = TOKENIZER.encode("e").ids[0]
    assert runner.step({"a": TO_LAW}, last_id=whole).argmax().item() == END_ID


def test_other_ranks_decide_alike_and_tell_nobody(runner):
    silent = RoutingHead(runner, None, TOKENIZER, END_ID)
    silent.install(LAW)
    runner.add(ASKS, "a")
    assert runner.step({"a": TO_LAW}).argmax().item() == END_ID


def test_a_rank_without_logits_passes_none_on(runner, monkeypatch):
    monkeypatch.setattr(Model, "compute_logits", lambda self, hidden: None)
    RoutingHead(runner, None, TOKENIZER, END_ID).install(LAW)
    runner.add(ASKS, "a")
    assert runner.step({"a": TO_LAW}) is None


def test_a_pass_that_is_no_step_of_requests_is_left_alone(runner, head):
    head.install(LAW)
    runner.add(ASKS, "a")
    runner.step({"a": TO_WORD})
    profiled = torch.stack([TO_LAW] * 3)
    assert torch.equal(runner.model.compute_logits(profiled), profiled @ WORDS.T)


def test_requests_that_are_over_are_forgotten(runner, head):
    for number in range(200):
        runner.add(ASKS, str(number))
        runner.step({str(number): TO_WORD})
        del runner.requests[str(number)]
    assert len(head._rows) < 40


@given(seed=st.integers(0, 2**63 - 1), position=st.integers(0, 50), crowd=st.integers(0, 3))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_seeded_draw_depends_on_seed_and_position_alone(seed: int, position: int, crowd: int):
    def drawn(num_others: int, start: int, num_steps: int) -> int:
        runner = Runner()
        RoutingHead(runner, None, TOKENIZER, END_ID)
        runner.add(Call("r", seed=seed, position=start), "a")
        others = {f"b{i}": torch.randn(DIM) for i in range(num_others)}
        for i, name in enumerate(others):
            runner.add(Call("r", seed=i), name)
        for _ in range(num_steps):
            logits = runner.step({**others, "a": torch.tensor([0.1, 0.2, 0.3, 0.4])})
        return int(logits[-1].argmax())

    assert (
        drawn(0, position, 1)
        == drawn(crowd, position, 1)
        == drawn(crowd, max(0, position - 2), min(2, position) + 1)
    )


def test_plain_calls_tell_the_worker_nothing():
    assert extra_args(Call("r"), "1") is None
    assert extra_args(Call("r", temperature=0.0, seed=3), "1") is None


def test_a_mailbox_forgets_what_nobody_came_for_and_leaves_nothing_behind():
    mailbox = Mailbox.create()
    mailbox.post("1", Decided(3, "law", 0.5, None))
    mailbox.clear()
    assert mailbox.take("1") is None
    mailbox.post("2", Decided(0, None, None, {"law": 0.5}))
    assert mailbox.take("2") == Decided(0, None, None, {"law": 0.5})
    assert mailbox.folder.stat().st_mode & 0o077 == 0
    mailbox.remove()
    assert not mailbox.folder.exists()
