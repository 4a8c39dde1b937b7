"""Stands for a prompt in the decision log. A query set has the same digests, so the two can be joined."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from router.prompt import Prompt


def prompt_digest(prompt: Prompt) -> str:
    """32 hex digits. Options of the chat template do not count, nor does a name in a message."""
    if prompt.messages is not None:
        return messages_digest([{"role": each.role, "content": each.content} for each in prompt.messages])
    return _digest({"text": prompt.text} if prompt.text is not None else {"ids": prompt.ids})


def messages_digest(messages: Sequence[Mapping[str, str]]) -> str:
    """Of a conversation; only the role and the content of each message count."""
    return _digest({"messages": [[each["role"], each["content"]] for each in messages]})


def _digest(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
