"""What the router sends as results of tasks, for the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from router.api.completion_models import ResponseModel


class TokenizedText(ResponseModel):
    """`count` is the number of `tokens`; the model's context window is `max_model_len`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizedText(ResponseModel):
    prompt: str


class Embedding(ResponseModel):
    """`embedding` is a list of numbers, or with `base64` their 32-bit floats."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(ResponseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(ResponseModel):
    """A vector for each input, in their order."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage
