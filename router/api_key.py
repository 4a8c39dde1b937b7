"""API keys: what the router knows of each, and the limits of the key."""

from __future__ import annotations

from pydantic import Field

from router.frozen import Frozen


class ApiKeyLimits(Frozen):
    """The limits of one key, which all router replicas keep together, and its place where answers wait. Every
    choice of a request counts."""

    requests_per_minute: int | None = Field(
        None, ge=1, description="Requests per minute; every choice counts as one. By default no limit."
    )
    tokens_per_minute: int | None = Field(
        None,
        ge=1,
        description="Tokens per minute, of prompts and answers, counted when an answer ends. By default no "
        "limit.",
    )
    tokens_per_day: int | None = Field(
        None, ge=1, description="The same per day, which begins at midnight UTC. By default no limit."
    )
    max_concurrent: int | None = Field(
        None, ge=1, description="Answers open at once, one for each choice. By default no limit."
    )
    priority: int = Field(
        0,
        ge=-100,
        le=100,
        description="Answers of keys with a lower number get free slots first, and give way last when too "
        "many wait. Keys with the same number take turns.",
    )


class ApiKey(ApiKeyLimits):
    """An API key: a name, the hex SHA-256 digest of its UTF-8 text, the experts it may use, and its limits.

    `experts` None permits every expert. With `sees_usage`, it may read what all keys have used.
    """

    name: str = Field(min_length=1, max_length=64)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    experts: tuple[str, ...] | None = None
    sees_usage: bool = False
