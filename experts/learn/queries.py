"""Query sets: what people ask, which expert should answer, and what a right answer is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_NUM_LISTED = 5


@dataclass(frozen=True)
class Query:
    """One conversation up to an open assistant turn, and what should become of that turn.

    `written`: what the meta writes in the turn before the place in question; most often nothing.
    `response`: a reference for the rest of the turn; "" where there is none.
    `expert`: who takes over right after `written`; None is nobody, so that the meta writes on.
    `labelled`: whether `expert` was given; if not, it is yet to be found from the reference.
    `answer`: what counts as right; with `choices`, one of their letters. None: not to be judged.
    `place`: where it stands in its file, for messages.
    """

    messages: tuple[Mapping[str, str], ...]
    expert: str | None = None
    written: str = ""
    response: str = ""
    answer: str | None = None
    choices: tuple[str, ...] = ()
    labelled: bool = True
    place: str = "line 1"

    @property
    def turn(self) -> str:
        """What the meta itself should write: all of the turn, or the part before an expert takes over."""
        return self.written if self.expert is not None else self.written + self.response

    @property
    def reference(self) -> str:
        """What models are compared by: the reference for the rest of the turn, else the right answer."""
        return self.response or self.answer or ""


def broken_lines(path: object, problems: Sequence[str], num_lines: int) -> str:
    """One line that names the first few problems and counts the rest."""
    listed = "; ".join(problems[:_NUM_LISTED])
    more = f"; and {len(problems) - _NUM_LISTED} more" if len(problems) > _NUM_LISTED else ""
    return f"{path}: {len(problems)} of {num_lines} lines are broken; correct or remove them: {listed}{more}"


def dataset_digest(queries: Iterable[Query]) -> str:
    """16 hex digits over what is learned from: messages, the meta's turn and the expert, in order."""
    digest = hashlib.sha256()
    for query in queries:
        content = [[dict(message) for message in query.messages], query.turn, query.expert]
        digest.update(json.dumps(content, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]
