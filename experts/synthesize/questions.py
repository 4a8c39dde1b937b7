"""Draws questions from a model until there are enough, and drops texts that are not worth learning from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from experts.learn.assign import DEFAULT_MARGIN
from experts.learn.hidden_states import Progress
from experts.synthesize.asker import Asker
from experts.synthesize.rejection import Rejection, normalised, text_rejection

STAGE = "questions"
MAX_TEXTS_PER_QUESTION = 20
# As unexpected as random digits. Questions of people have less than 1.6 with a meta of 135M parameters.
_MAX_NLL_PER_BYTE = math.log(10)


@dataclass
class Synthesis:
    """`questions`: those kept, in the order drawn. `num_rejected`: how many were not, by the first reason."""

    questions: list[str] = field(default_factory=list)
    num_rejected: Counter[Rejection] = field(default_factory=Counter)

    @property
    def num_texts(self) -> int:
        return len(self.questions) + self.num_rejected.total()

    def add(self, text: str | None, reason: Rejection | None) -> None:
        """`reason`: why the text is rejected; None keeps it."""
        if reason is not None:
            self.num_rejected[reason] += 1
        elif text is not None:
            self.questions.append(text)

    def summary(self) -> str:
        """One line: how many were kept, and why the rest was not."""
        reasons = [
            f"{self.num_rejected[reason]} {reason}" for reason in Rejection if self.num_rejected[reason]
        ]
        kept = f"kept {len(self.questions)} of {self.num_texts}"
        return f"{kept}: {', '.join(reasons)}" if reasons else kept


@dataclass(frozen=True)
class Draw:
    """What to draw: `num` questions.

    `seed`: the same one gives the same questions. `margin`: a question must be likelier from the model that
    writes it than from its rival by so many nats per UTF-8 byte. The default is that of `assign_queries`, for
    the same reason: close calls do not tell an expert from the meta. `batch_size`: texts at once.
    `max_texts_per_question`: how many may be written for each question that is wanted.
    """

    num: int
    seed: int = 0
    temperature: float = 1.0
    margin: float = DEFAULT_MARGIN
    batch_size: int = 16
    max_texts_per_question: int = MAX_TEXTS_PER_QUESTION

    @property
    def max_texts(self) -> int:
        """How many texts may be written for the questions."""
        return self.max_texts_per_question * self.num


def synthesize(
    writer: Asker,
    rival: Asker | None,
    draw: Draw,
    progress: Progress = lambda done, total, what: None,
) -> Synthesis:
    """The questions that `writer` writes; fewer than wanted if `draw.max_texts` texts do not suffice.

    Each is likelier from `writer` than from `rival`, and yet something that `rival` could expect from a user.
    The latter is for experts that were trained on answers alone: they write answers in place of questions.
    `rival` None: `writer` itself could expect it, which it cannot if it knows nothing of users.
    Raises ModelLoadError.
    """
    found = Synthesis()
    seen: set[str] = set()
    seeds = Random(draw.seed)
    progress(0, draw.num, STAGE)
    while len(found.questions) < draw.num and found.num_texts < draw.max_texts:
        size = min(draw.batch_size, draw.max_texts - found.num_texts)
        texts = writer.sample(size, temperature=draw.temperature, seed=seeds.getrandbits(63))
        _judge(found, texts, seen, writer, rival, draw)
        progress(len(found.questions), draw.num, STAGE)
    return found


def _judge(
    found: Synthesis,
    texts: Sequence[str | None],
    seen: set[str],
    writer: Asker,
    rival: Asker | None,
    draw: Draw,
) -> None:
    """Adds the texts to `found`, until it has enough questions."""
    reasons = [_rejection(text, seen) for text in texts]
    candidates = [text for text, reason in zip(texts, reasons, strict=True) if text and not reason]
    compared = iter(_compared(writer, rival, candidates, draw))
    for text, reason in zip(texts, reasons, strict=True):
        if len(found.questions) == draw.num:
            return
        found.add(text, reason or next(compared))


def _rejection(text: str | None, seen: set[str]) -> Rejection | None:
    """What is wrong with the text, by itself or after those in `seen`, to which it is added."""
    reason = text_rejection(text)
    if reason or text is None:
        return reason
    key = normalised(text)
    if key in seen:
        return Rejection.REPEATED
    seen.add(key)
    return None


def _compared(
    writer: Asker, rival: Asker | None, texts: Sequence[str], draw: Draw
) -> Iterator[Rejection | None]:
    """For each text, what is wrong with its likelihoods."""
    own = writer.nll_per_byte(texts, draw.batch_size)
    others = rival.nll_per_byte(texts, draw.batch_size) if rival else own
    for nll, other in zip(own, others, strict=True):
        if math.isinf(nll) or math.isinf(other):  # a tokenizer or a template cannot take the text
            yield Rejection.GARBLED
        elif other > _MAX_NLL_PER_BYTE:
            yield Rejection.UNLIKELY
        else:
            yield Rejection.MARGIN if rival and other - nll < draw.margin else None
