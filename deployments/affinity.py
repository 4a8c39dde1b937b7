"""Where a conversation is at home: the replica that most likely keeps its beginning in its cache.

Free of Ray, and of memory: whoever sees the same replicas finds the same home, without asking anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b

from experts.engine.base import Call

KEEPS_PREFIXES = "keeps_prefixes"  # what a replica says of itself
SLACK_PART = 8  # of what a replica takes at once: so many calls more than the idlest are not clearly busier
# What is looked at, or a huge prompt would take its time: two that differ only after that share a home.
MAX_MESSAGES = 8
MAX_CHARACTERS = 1024  # of each message
# Where the first turn of a raw prompt ends nobody knows; so much of it nearly every turn has.
MAX_TEXT_CHARACTERS = 256
MAX_IDS = 64


def conversation(call: Call) -> bytes:
    """A digest that all turns of one conversation share, and all spans of an answer: of its messages up to
    the first of the user, or of the beginning of a raw prompt, and of the adapter that reads it."""
    digest = blake2b(digest_size=16)
    for part in (call.adapter or "", *_beginning(call)):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.digest()


def ranked(key: bytes, replicas: Iterable[str]) -> list[str]:
    """The replicas, the home of the conversation first and then those that would take its place.

    Rendezvous hashing (Thaler and Ravishankar, 1998): one that comes takes its share of the conversations
    from all others alike, and only those of one that goes move.
    """
    return sorted(replicas, key=lambda replica: _weight(key, replica), reverse=True)


def not_too_busy(order: Sequence[str], num_calls: Mapping[str, int], max_calls: int) -> str | None:
    """The first in this order that has room and is not clearly busier than the idlest; None if all are full.

    `num_calls`: what replicas have; one of which that is not known is passed over. `max_calls`: how many a
    replica takes at once.
    """
    known = [num_calls[replica] for replica in order if replica in num_calls]
    if not known or min(known) >= max_calls:
        return None
    limit = min(min(known) + max(1, max_calls // SLACK_PART), max_calls - 1)
    return next(replica for replica in order if num_calls.get(replica, max_calls) <= limit)


def _beginning(call: Call) -> Iterator[str]:
    if call.messages is None:
        yield (call.text or "")[:MAX_TEXT_CHARACTERS]
        yield ",".join(map(str, (call.ids or ())[:MAX_IDS]))
        return
    for message in call.messages[:MAX_MESSAGES]:
        yield message["role"]
        yield message["content"][:MAX_CHARACTERS]
        if message["role"] == "user":
            return


def _weight(key: bytes, replica: str) -> bytes:
    return blake2b(key + replica.encode(), digest_size=8).digest()
