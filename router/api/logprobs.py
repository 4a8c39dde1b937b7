"""Log-probabilities as OpenAI's two endpoints, and vLLM for prompts, have them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from router.parts import Alternative, TokenLogprobs

# It has no text in an answer, and engines do not tell its log-probability.
END_OF_TURN = TokenLogprobs("", b"", None)


def chat_logprobs(tokens: Iterable[TokenLogprobs]) -> dict[str, Any]:
    """`logprobs` of a choice of a chat completion."""
    content = [{**_entry(token), "top_logprobs": list(map(_entry, token.top))} for token in tokens]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Sequence[TokenLogprobs], offset: int) -> dict[str, Any]:
    """`logprobs` of a choice of a text completion, whose first token stands at character `offset`."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{each.token: each.logprob for each in token.top} or None for token in tokens],
        "text_offset": offsets,
    }


def prompt_logprobs(tokens: Iterable[TokenLogprobs]) -> list[dict[str, Any] | None]:
    """vLLM's `prompt_logprobs`: by token id; None for the first token, which follows nothing."""
    return [None if token.logprob is None else _by_id(token) for token in tokens]


def _by_id(token: TokenLogprobs) -> dict[str, Any]:
    ranks = {each.id: rank for rank, each in enumerate(token.top, 1)}
    tokens: list[TokenLogprobs | Alternative] = [token, *token.top]
    return {
        str(each.id): {"logprob": each.logprob, "rank": ranks.get(each.id), "decoded_token": each.token}
        for each in tokens
    }


def _entry(token: TokenLogprobs | Alternative) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.data)}
