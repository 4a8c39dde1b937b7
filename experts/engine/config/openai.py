"""Settings of a remote engine: the `remote` block of cluster.yaml."""

from __future__ import annotations

from typing import Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, field_validator

from experts.engine.config.base import FrozenConfig


class OpenAIConfig(FrozenConfig):
    """A model behind a URL that speaks the OpenAI API: the `remote` block of cluster.yaml."""

    kind: Literal["openai"] = Field("openai", description="The engine: a remote server of the OpenAI API.")
    url: str = Field(
        description="The server's address up to `/chat/completions` or `/embeddings`, for example `https://x/v1`."
    )
    model: str = Field(min_length=1, description="The model's name on that server.")
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable that holds the server's API key where the replica runs. By "
        "default no key is sent.",
    )
    continuation: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Whether the server can continue an assistant message that has text already. `auto` "
        "tests it with three short requests; `always` and `never` skip the test.",
    )
    limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="The field in which this server takes the token limit of a chat."
    )
    omit: list[Literal["temperature", "top_p", "top_k", "seed", "stream_options"]] = Field(
        [], description="Fields that this server refuses; they are not sent."
    )
    max_streams: int = Field(
        32,
        ge=1,
        le=1024,
        description="Requests that one replica sends at a time, each on its own connection; others wait.",
    )
    retries: int = Field(
        2,
        ge=0,
        le=10,
        description="How often a request is sent again if the connection fails, or the server is "
        "busy or unavailable, before any part of the answer has arrived.",
    )
    connect_timeout_s: float = Field(5.0, gt=0, description="Seconds to wait for a connection.")
    read_timeout_s: float = Field(
        300.0,
        gt=0,
        description="Seconds of silence after which the answer has failed. The router's own deadlines are "
        "usually shorter.",
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = _split(url)
        # Checked first, because the other messages quote the URL.
        if "@" in parts.netloc:
            raise ValueError("holds credentials; remove them, and name a variable in api_key_env")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"'{url}' is not an http:// or https:// URL; give one that ends before /chat")
        if parts.query or parts.fragment:
            raise ValueError("has a part after ? or #; remove it")
        if parts.path.rstrip("/").endswith(("/completions", "/embeddings")):
            raise ValueError(
                f"'{url}' names one endpoint; end it before /chat/completions, /completions or /embeddings"
            )
        return url.rstrip("/")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed, and checked, only on access
    except ValueError as error:
        raise ValueError("is not a valid address; correct it") from error
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("has characters that are not allowed in an address; remove them")
    return parts
