"""The `http` block of cluster.yaml: where the cluster listens, and which clients it answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from cluster.config.base import LoadContext, StrictConfig
from router.media_rules import MediaRules
from router.model_ids import model_ids
from router.table import META

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
ALIAS = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$"
ORIGIN = r"^(\*|https?://[^/\s]+)$"


class MediaConfig(MediaRules, StrictConfig, title="http.media"):
    """Pictures, recordings and files in messages, for models whose `modalities` have them."""


class HttpConfig(StrictConfig, title="http"):
    """Where the cluster listens. With `keys_file` or `keys_env`, a request needs one of those API keys.
    Without both, every client that reaches the port may send requests. `etr apply` reads the keys again."""

    host: str = Field(
        DEFAULT_HOST,
        min_length=1,
        description="Address to listen on; `0.0.0.0` for all interfaces. In Kubernetes, pods always listen "
        "on all.",
    )
    port: int = Field(DEFAULT_PORT, ge=1, le=65535, description="Port to listen on.")
    max_body_bytes: int = Field(1_048_576, ge=1024, description="Largest request body, in bytes.")
    keys_file: Annotated[Path, Field(strict=False)] | None = Field(
        None,
        description="File with the digests of API keys, which `etr keys` makes. A relative path starts at "
        "the "
        "folder of cluster.yaml.",
    )
    keys_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable of the `etr` command with API keys, separated by commas. They have "
        "no limits.",
    )
    separate_caches: bool = Field(
        False,
        description="Whether each API key has its own part of the models' prefix caches, so that no key can "
        "tell from the time of its answers what another has sent. Then keys no longer share the reading of a "
        "common system prompt.",
    )

    cors_origins: list[Annotated[str, Field(pattern=ORIGIN)]] = Field(
        [],
        description="Origins of web pages that may use the API, such as `https://chat.example.org`; `*` for "
        "all. By default none.",
    )
    allow_chat_template: bool = Field(
        False,
        description="Whether a request may bring a chat template. A template is a program: a hostile one can "
        "keep a replica busy.",
    )
    page: bool = Field(
        True,
        description="Whether browsers get a page at `/` that shows the cluster. The page needs no API key; "
        "what it asks the cluster does.",
    )

    media: MediaConfig = Field(
        MediaConfig(), description="Limits of pictures in messages, and from where they may be fetched."
    )
    aliases: dict[Annotated[str, Field(pattern=ALIAS)], str] = Field(
        {},
        description="Further names for models, for clients that know other ones, such as `gpt-4o: "
        "generalist`. Each stands for a model as `GET /v1/models` lists it.",
    )

    @field_validator("keys_file")
    @classmethod
    def _is_there(cls, keys_file: Path | None, info: ValidationInfo) -> Path | None:
        if keys_file is None:
            return None
        path = (LoadContext.of(info).folder / keys_file.expanduser()).resolve()
        if not path.is_file():
            raise ValueError(f"no such file '{path}'; make it with `etr keys create` or correct the path")
        return path

    @model_validator(mode="after")
    def _has_keys_to_separate(self) -> Self:
        if self.separate_caches and self.keys_file is None and self.keys_env is None:
            raise ValueError("separate_caches has no effect without API keys; set keys_file or remove it")
        return self

    def alias_problems(self, name: str, experts: Iterable[str]) -> Iterator[str]:
        """What is wrong with the aliases in the cluster `name`, one line each."""
        ids = model_ids(name, (META, *experts))
        for alias, model_id in self.aliases.items():
            if alias == name or alias.startswith(f"{name}/"):
                yield f"http.aliases.{alias}: models of this cluster are named like that; choose another"
            if model_id not in ids:
                yield f"http.aliases.{alias}: no model '{model_id}'; use one of: {', '.join(ids)}"
