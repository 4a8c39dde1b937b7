"""Compares what an expert writes in place, on the meta's keys and values, with what its adapter writes alone.

An ordinary LoRA was trained to read the whole prompt. In place, the meta has read it without the adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix

from cluster.client.batch_chat import Reply, ask_models
from experts.learn.queries import Query

MAX_QUERIES = 20
MAX_TOKENS = 64


@dataclass(frozen=True)
class InPlaceCheck:
    """`equal_parts`: one for each question that the meta handed over before it wrote anything. It is the
    share of the adapter's own answer that both answers begin with, and 1 if they are equal."""

    expert: str
    num_asked: int
    equal_parts: tuple[float, ...]

    @property
    def num_equal(self) -> int:
        return sum(part == 1 for part in self.equal_parts)

    @property
    def mean_part(self) -> float:
        return sum(self.equal_parts) / len(self.equal_parts)


async def check_in_place(url: str, cluster: str, expert: str, queries: Sequence[Query]) -> InPlaceCheck:
    """Ask at most `MAX_QUERIES` of the expert's queries twice: the cluster, whose meta hands over in place,
    and the expert by its name, whose adapter reads the whole prompt.

    Raises:
        AskError: a query got no answer.
    """
    own = [query for query in queries if query.expert == expert and not query.written][:MAX_QUERIES]
    models = [cluster, f"{cluster}/{expert}"]
    routed, alone = (await ask_models(url, models, own, max_tokens=MAX_TOKENS)).values()
    pairs = zip(routed, alone, strict=True)
    parts = [_equal_part(one.text, other.text) for one, other in pairs if _is_taken_over(one, expert)]
    return InPlaceCheck(expert, len(own), tuple(parts))


def _is_taken_over(reply: Reply, expert: str) -> bool:
    return [name for name, text in reply.spans if text] == [expert]


def _equal_part(text: str, expected: str) -> float:
    if text == expected:
        return 1.0
    return len(commonprefix([text, expected])) / max(len(text), len(expected))
