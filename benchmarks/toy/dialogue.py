"""Conversations to train on, made of questions, greetings, system messages and earlier turns."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.toy.domains import DOMAINS, domain_split
from benchmarks.toy.question import GENERAL, GREETED_SHARE, GREETING_BACK, Question, Split, greet
from benchmarks.toy.smalltalk import smalltalk_split

Message = dict[str, str]

SYSTEM_SHARE = 0.06
HISTORY_SHARE = 0.05
GIVEN_SHARE = 0.1
SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "You are a friendly chat bot. Be kind.",
    "Be concise and polite.",
)


@dataclass(frozen=True)
class Dialogue:
    """A conversation that ends with a question. `given`: the start of the answer. `answer`: the rest, to
    learn."""

    messages: tuple[Message, ...]
    given: str
    answer: str


class DialogueMaker:
    """Makes random training conversations. The same seed gives the same conversations."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._splits = {GENERAL: smalltalk_split(), **{domain: domain_split(domain) for domain in DOMAINS}}
        self._all = [question for split in self._splits.values() for question in split.train]

    def split(self, domain: str) -> Split:
        return self._splits[domain]

    def expert(self, questions: Sequence[Question]) -> list[Dialogue]:
        """One conversation for each question. In some, the answer continues after a given greeting."""
        return [self._dialogue(self._maybe_greeted(question), may_be_given=True) for question in questions]

    def meta(self, questions: Sequence[Question]) -> list[Dialogue]:
        """Like `expert`, but with shuffled answers in each domain: the meta learns their form, not the
        facts."""
        shuffled = [question for domain in self._splits for question in self._shuffled(domain, questions)]
        return [self._dialogue(self._maybe_greeted(question), may_be_given=False) for question in shuffled]

    def _shuffled(self, domain: str, questions: Sequence[Question]) -> list[Question]:
        members = [question for question in questions if question.domain == domain]
        if domain == GENERAL:
            return members
        answers = [question.answer for question in members]
        self._random.shuffle(answers)
        return [
            Question(domain, member.question, answer) for member, answer in zip(members, answers, strict=True)
        ]

    def _maybe_greeted(self, question: Question) -> Question:
        if question.greeted or self._random.random() >= GREETED_SHARE:
            return question
        return greet(question, self._random)

    def _dialogue(self, question: Question, *, may_be_given: bool) -> Dialogue:
        messages = (*self._opening(), {"role": "user", "content": question.question})
        if may_be_given and self._random.random() < GIVEN_SHARE:
            return Dialogue(messages, GREETING_BACK, question.answer)
        return Dialogue(messages, "", question.visible)

    def _opening(self) -> list[Message]:
        opening: list[Message] = []
        if self._random.random() < SYSTEM_SHARE:
            opening.append({"role": "system", "content": self._random.choice(SYSTEM_MESSAGES)})
        if self._random.random() < HISTORY_SHARE:
            earlier = self._random.choice(self._all)
            opening.append({"role": "user", "content": earlier.question})
            opening.append({"role": "assistant", "content": earlier.visible})
        return opening
