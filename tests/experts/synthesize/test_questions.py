"""Questions are drawn until there are enough; every text that is dropped is counted by its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from experts.learn import assign
from experts.synthesize.asker import Asker
from experts.synthesize.questions import Draw, synthesize
from experts.synthesize.rejection import Rejection
from experts.synthesize.user_turn import UserTurn
from tests.tiny.asking_models import chemist, greeted


class Script:
    """Writes the given texts over and over; `nll` per byte by text."""

    def __init__(self, texts: Sequence[str | None] = (), nll: dict[str, float] | None = None) -> None:
        self.texts, self.nll, self.num_written = texts, nll or {}, 0
        self.seeds: list[int] = []

    def sample(self, num: int, *, temperature: float, seed: int) -> list[str | None]:
        self.seeds.append(seed)
        at = range(self.num_written, self.num_written + num)
        self.num_written += num
        return [self.texts[i % len(self.texts)] for i in at]

    def nll_per_byte(self, texts: Sequence[str], batch_size: int) -> list[float]:
        return [self.nll.get(text, 1.0) for text in texts]


def drawn(writer: Any, rival: Any, num: int, **options: Any) -> Any:
    return synthesize(writer, rival, Draw(num, **options))


def test_every_text_is_kept_or_counted_by_its_first_reason():
    texts = [
        "what is iron?",
        None,
        "no " * 9,
        "What is  IRON?",
        "what is neon?",
        "hi there you",
        "xq zw vk jj",
    ]
    nll = {"what is iron?": 1.2, "what is neon?": 1.04, "hi there you": 0.9, "xq zw vk jj": 2.4}
    found = drawn(Script(texts), Script(nll=nll), 2, batch_size=7)
    assert found.questions == ["what is iron?"]
    first_round = {
        Rejection.LENGTH: 1,
        Rejection.GARBLED: 1,
        Rejection.REPEATED: 1,
        Rejection.MARGIN: 2,
        Rejection.UNLIKELY: 1,
    }
    # 40 texts: five more rounds, in which all is repeated but what has no end or is a loop, and five texts.
    assert found.num_texts == 40
    assert {reason: found.num_rejected[reason] for reason in (Rejection.MARGIN, Rejection.UNLIKELY)} == {
        reason: first_round[reason] for reason in (Rejection.MARGIN, Rejection.UNLIKELY)
    }
    assert found.summary() == (
        "kept 1 of 40: 6 too short or long, 6 garbled, 24 repeated, 1 unlike a question, 2 too general"
    )


def test_drawing_stops_at_the_last_question_wanted():
    texts = [f"question number {i}" for i in range(100)]
    found = drawn(Script(texts), None, 5, batch_size=4)
    assert found.questions == texts[:5]
    assert found.num_texts == 5
    assert found.summary() == "kept 5 of 5"


def test_drawing_ends_without_enough_questions():
    writer = Script([None])
    found = drawn(writer, None, 3, batch_size=16)
    assert (found.questions, found.num_texts, writer.num_written) == ([], 60, 60)


@pytest.mark.parametrize(("lead", "is_kept"), [(0.04, False), (0.06, True)])
def test_a_question_must_be_likelier_by_the_margin(lead, is_kept):
    text = "what is iron?"
    found = drawn(Script([text]), Script(nll={text: 1.0 + lead}), 1)
    assert (found.questions == [text]) is is_kept
    assert drawn(Script([text]), Script(nll={text: 1.0 + lead}), 1, margin=0.5).questions == []


def test_what_a_user_would_not_write_is_dropped_however_likely_it_is_from_the_expert():
    answer = "MCMXCIV is MCMXCIV"
    rival = Script(nll={answer: math.log(10) + 0.01})
    found = drawn(Script([answer], nll={answer: 0.1}), rival, 1, batch_size=1)
    assert found.num_rejected[Rejection.UNLIKELY] == 1
    assert drawn(Script([answer]), Script(nll={answer: math.log(10) - 0.01}), 1).questions == [answer]


@pytest.mark.parametrize("side", ["writer", "rival"])
def test_what_a_model_cannot_take_is_dropped(side):
    text = "what is iron?"
    nll = {"writer": 1.0, "rival": 2.0} | {side: math.inf}
    found = drawn(Script([text], {text: nll["writer"]}), Script(nll={text: nll["rival"]}), 1, batch_size=1)
    assert found.num_rejected[Rejection.GARBLED] == 1
    assert found.questions == []


def test_the_batches_of_neighbouring_seeds_have_nothing_in_common():
    seeds = []
    for seed in range(3):
        writer = Script([None])
        drawn(writer, None, 4, seed=seed)
        seeds += writer.seeds
    assert len(set(seeds)) == len(seeds) == 15


def test_progress_counts_the_questions_kept():
    reports: list[tuple[int, int, str]] = []
    texts = [f"question number {i // 2}" for i in range(100)]
    script: Any = Script(texts)
    synthesize(script, None, Draw(3, batch_size=2), lambda *report: reports.append(report))
    assert reports == [(number, 3, "questions") for number in range(4)]


def test_the_margin_is_that_of_labels():
    assert Draw(1).margin == assign.DEFAULT_MARGIN


def test_an_experts_questions_are_those_that_the_meta_hears_less(renderer):
    turn = UserTurn.of(renderer)
    expert, meta = Asker(chemist(renderer), turn), Asker(greeted(renderer), turn)
    found = synthesize(expert, meta, Draw(3))
    own = [question for question in found.questions if question.startswith("what is the symbol of")]
    assert len(own) >= 2
    assert found.num_rejected[Rejection.MARGIN] > 0
    again = synthesize(expert, meta, Draw(3))
    assert (again.questions, again.num_rejected) == (found.questions, found.num_rejected)
