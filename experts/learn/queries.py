"""Query sets: questions, the expert that should answer each, and what a right answer is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

QUERY_SET = "query set"  # in errors, in place of a file's name
_MAX_LISTED = 20

# Where a query is from: the data; "meta", a general question that the meta wrote; or "paraphrase", a
# query of the data that the meta has put in other words.
Origin = Literal["data", "meta", "paraphrase"]


@dataclass(frozen=True)
class Query:
    """One conversation up to an open assistant turn, and how that turn should continue.

    `written`: what the meta writes in the turn before a hand-over may come; usually nothing.
    `response`: a reference for the rest of the turn; "" if there is none.
    `expert`: the expert that takes over right after `written`. None: no expert does, the meta continues;
    this is called a general query.
    `labelled`: whether `expert` was given; if not, it is found from the reference.
    `answer`: the right answer; with `choices`, the letter of one. None: answers are not judged.
    `place`: its line in the file, for messages.
    `own_answer`: what the meta wrote when it answered an expert's query itself; "" if it was not asked, and
    always with `written`. No expert should take over in the middle of it, unless it is `late`: then `expert`
    should, at every position.
    `origin`: see Origin.
    """

    messages: tuple[Mapping[str, str], ...]
    expert: str | None = None
    written: str = ""
    response: str = ""
    answer: str | None = None
    choices: tuple[str, ...] = ()
    labelled: bool = True
    place: str = "line 1"
    own_answer: str = ""
    late: bool = False
    origin: Origin = "data"

    @property
    def question(self) -> str:
        """The text of the last message."""
        return self.messages[-1]["content"]

    @property
    def turn(self) -> str:
        """What the meta itself should write: the whole turn, or the part before an expert takes over."""
        return self.written if self.expert is not None else self.written + self.response

    @property
    def reference(self) -> str:
        """The text by which models are compared: the reference, or the right answer if there is none."""
        return self.response or self.answer or ""


def label_problem(query: Query, names: Collection[str]) -> str | None:
    """What is wrong with the label of a query that needs one: one of `names`, or no expert. None: nothing."""
    if not query.labelled:
        return 'has no "expert" to judge by; add one, or null'
    if query.expert is not None and query.expert not in names:
        return f"unknown expert '{query.expert}'; use one of {', '.join(sorted(names))}"
    return None


def broken_rows(
    path: object, problems: Sequence[str], num_rows: int, remedy: str = "correct or remove them"
) -> str:
    """A message with a line that counts the broken rows, and the lines of `listed_rows`."""
    count = f"{path}: {len(problems)} of {num_rows} rows are broken; {remedy}"
    return "\n".join([count, *listed_rows(path, problems)])


def listed_rows(path: object, problems: Sequence[str]) -> list[str]:
    """A line for each problem; if there are very many, a line with the number of the rest."""
    listed = [f"{path}: {problem}" for problem in problems[:_MAX_LISTED]]
    num_more = len(problems) - len(listed)
    return [*listed, f"{path}: … and {num_more} more"] if num_more else listed


def dataset_digest(queries: Iterable[Query]) -> str:
    """16 hex digits over all that is learned from: messages, the meta's turn, the expert and own answers."""
    digest = hashlib.sha256()
    for query in queries:
        content: list[object] = [[dict(message) for message in query.messages], query.turn, query.expert]
        if query.own_answer:  # without one, the digest is that of earlier versions, whose states stay valid
            content += [query.own_answer, query.late]
        digest.update(json.dumps(content, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]
