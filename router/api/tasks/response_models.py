"""What the router sends as results of tasks, for the OpenAPI document."""

from __future__ import annotations

from router.api.completion_models import ResponseModel


class TokenizedText(ResponseModel):
    """`count` is the number of `tokens`; the model's context window is `max_model_len`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizedText(ResponseModel):
    prompt: str
