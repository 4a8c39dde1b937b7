"""The `http` block of cluster.yaml: where the cluster answers, and whom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from cluster.strict import LoadContext, Strict

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000


class HttpBlock(Strict):
    """Who may ask: whoever has a key of `keys_file` or of the variable `keys_env`; without both, everybody.

    Keys are read when a deploy config is built, not with this block: `etr apply` takes the newest.
    """

    host: str = Field(DEFAULT_HOST, min_length=1)
    port: int = Field(DEFAULT_PORT, ge=1, le=65535)
    max_body_bytes: int = Field(1_048_576, ge=1024)
    keys_file: Annotated[Path, Field(strict=False)] | None = None
    keys_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")

    @field_validator("keys_file")
    @classmethod
    def _is_there(cls, keys_file: Path | None, info: ValidationInfo) -> Path | None:
        if keys_file is None:
            return None
        path = (LoadContext.of(info).folder / keys_file.expanduser()).resolve()
        if not path.is_file():
            raise ValueError(f"no such file '{path}'; make it with `etr keys create` or correct the path")
        return path
