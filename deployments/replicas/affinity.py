"""Conversation affinity: which replica most likely has the beginning of a conversation in its prefix cache.

Needs neither Ray nor state: every router that sees the same replicas ranks them in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from experts.engine.request import EngineRequest

# keys in the metadata of a replica
KEEPS_PREFIXES = "keeps_prefixes"
VOCABULARY = "vocabulary"
# A replica is clearly busier than another if it has more calls by 1/8 of what a replica takes at once.
SLACK_DIVISOR = 8
# How much of a prompt is hashed, to bound the time. Prompts that differ only after that share a replica.
MAX_MESSAGES = 8
MAX_CHARACTERS = 1024  # of each message
# A raw prompt does not say where its first turn ends; nearly every turn is at least this long.
MAX_TEXT_CHARACTERS = 256
MAX_IDS = 64


def conversation_digest(request: EngineRequest) -> bytes:
    """16 bytes, the same for all turns of one conversation and all calls of one answer.

    Hashes the adapter, and the messages up to the first of the user or the beginning of a raw prompt.
    """
    digest = blake2b(digest_size=16)
    for part in (request.adapter or "", *_beginning(request)):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.digest()


def rank_replicas(digest: bytes, replicas: Iterable[str]) -> list[str]:
    """The replicas in the order of preference for a conversation.

    Rendezvous hashing (Thaler and Ravishankar, 1998): a new replica takes an equal share of the conversations
    from each of the others; a removed one moves only its own.
    """
    return sorted(replicas, key=lambda replica: _weight(digest, replica), reverse=True)


def least_busy_in_order(ranked: Sequence[str], num_calls: Mapping[str, int], max_calls: int) -> str | None:
    """The first replica in this order that has room and is not clearly busier than the least busy one.

    `num_calls`: the open calls of each replica; a replica whose number is not known is passed over.
    `max_calls`: how many calls a replica takes at once. None if all are full.
    """
    known = [num_calls[replica] for replica in ranked if replica in num_calls]
    if not known or min(known) >= max_calls:
        return None
    limit = min(min(known) + max(1, max_calls // SLACK_DIVISOR), max_calls - 1)
    return next(replica for replica in ranked if num_calls.get(replica, max_calls) <= limit)


def _beginning(request: EngineRequest) -> Iterator[str]:
    if request.messages is None:
        yield (request.text or "")[:MAX_TEXT_CHARACTERS]
        yield ",".join(map(str, (request.ids or ())[:MAX_IDS]))
        return
    for message in request.messages[:MAX_MESSAGES]:
        yield message["role"]
        yield from _texts(message["content"])
        if message["role"] == "user":
            return


def _texts(content: str | Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The beginning of each text, and the end of each picture, since pictures begin alike."""
    if isinstance(content, str):
        yield content[:MAX_CHARACTERS]
        return
    for part in content:
        url = part["image_url"]["url"] if part["type"] == "image_url" else ""
        yield part.get("text", "")[:MAX_CHARACTERS] + url[-MAX_CHARACTERS:]


def _weight(digest: bytes, replica: str) -> bytes:
    return blake2b(digest + replica.encode(), digest_size=8).digest()
