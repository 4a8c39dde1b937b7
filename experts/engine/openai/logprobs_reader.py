"""Log-probabilities in the events of chats and of completions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from experts.engine.chunk import Alternative, TokenLogprobs


def read_logprobs(found: object) -> tuple[TokenLogprobs, ...]:
    """`found`: the `logprobs` of a choice; what is not as OpenAI has it is left out."""
    if not isinstance(found, dict):
        return ()
    if isinstance(found.get("content"), list):
        return tuple(_of_chat(found["content"]))
    if isinstance(found.get("tokens"), list):
        return tuple(_of_completion(found))
    return ()


def _of_chat(content: list[Any]) -> Iterator[TokenLogprobs]:
    for entry in content:
        if isinstance(entry, dict):
            each = _alternative(entry)
            top = entry.get("top_logprobs")
            alternatives = (
                [_alternative(t) for t in top if isinstance(t, dict)] if isinstance(top, list) else []
            )
            yield TokenLogprobs(each.token, each.data, each.logprob, tuple(alternatives))


def _alternative(entry: Mapping[str, Any]) -> Alternative:
    token, data, logprob = str(entry.get("token", "")), entry.get("bytes"), entry.get("logprob")
    is_bytes = isinstance(data, list) and all(type(byte) is int and 0 <= byte < 256 for byte in data)
    number = float(logprob) if isinstance(logprob, int | float) else float("-inf")
    return Alternative(token, bytes(data or ()) if is_bytes else _encoded(token), number)


def _of_completion(found: Mapping[str, Any]) -> Iterator[TokenLogprobs]:
    logprobs, tops = (found.get(key) or () for key in ("token_logprobs", "top_logprobs"))
    for token, logprob, top in zip_longest(found["tokens"], logprobs, tops):
        if isinstance(token, str):
            alternatives = top.items() if isinstance(top, dict) else ()
            ordered = sorted(alternatives, key=lambda each: -each[1])
            yield TokenLogprobs(
                token,
                _encoded(token),
                logprob if isinstance(logprob, int | float) else None,
                tuple(Alternative(text, _encoded(text), value) for text, value in ordered),
            )


def _encoded(token: str) -> bytes:
    return token.encode("utf-8", "replace")
