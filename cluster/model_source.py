"""Where a model comes from: the `model` block of cluster.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from cluster.strict import OWN_WORDS, LoadContext, Strict

URI_SCHEMES = ("abfs", "file", "gs", "https", "s3")


class Source(Strict):
    """`trust_remote_code`: Python files of the checkpoint may run, with all rights of the replica. Nothing
    is downloaded for it: they have to be there, as the weights have."""

    trust_remote_code: bool = False


class LocalModel(Source):
    """A Hugging Face checkpoint in a folder; relative paths start at the folder of cluster.yaml."""

    path: Annotated[Path, Field(strict=False)]

    @field_validator("path")
    @classmethod
    def _is_checkpoint(cls, path: Path, info: ValidationInfo) -> Path:
        context = LoadContext.of(info)
        if not context.models_required:
            return on_another_machine(path)
        folder = (context.folder / path.expanduser()).resolve()
        if not folder.is_dir():
            raise ValueError(f"no such folder '{folder}'; put the model there or correct the path")
        if not (folder / "config.json").is_file():
            raise ValueError(f"'{folder}' has no config.json; name the folder of a Hugging Face checkpoint")
        return folder


def on_another_machine(path: Path) -> Path:
    """Where the model lies there is no relative path to start from, and nothing to look at from here."""
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError(f"'{path}' is not absolute; give the path that it has where the model is served")
    return path


class HubModel(Source):
    """A model of the Hugging Face hub, taken from the local cache where it is there."""

    hub: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")
    revision: str | None = None


class Uri(Strict):
    uri: str

    @field_validator("uri")
    @classmethod
    def _is_plain(cls, uri: str) -> str:
        parts = urlsplit(uri)
        if parts.scheme not in URI_SCHEMES or "::" in uri:
            schemes = ", ".join(f"{scheme}://" for scheme in URI_SCHEMES)
            raise ValueError(f"'{uri}' begins with none of {schemes}; correct it, or use path")
        # `@` separates credentials in all but abfs, where the container stands before it.
        if parts.password is not None or ("@" in parts.netloc and parts.scheme != "abfs"):
            raise ValueError("holds credentials; remove them, and give them to the nodes' environment")
        if parts.query or parts.fragment:
            raise ValueError(f"'{uri}' has a part after ? or #; name a plain folder")
        if not parts.path.strip("/"):
            raise ValueError(f"'{uri}' names no folder; add the path of a Hugging Face checkpoint")
        return uri


class UriModel(Uri, Source):
    """A folder of a remote file system, which every node that serves it fetches once."""

    @field_validator("trust_remote_code")
    @classmethod
    def _has_no_code(cls, trust_remote_code: bool) -> bool:
        if trust_remote_code:
            raise ValueError(
                "has no effect with uri, of which no code is ever fetched; remove it or use path"
            )
        return trust_remote_code


def one_of(*keys: str) -> Discriminator:
    """A union told apart by which one of `keys` is there."""

    def tag(value: object) -> str | None:
        present = [key for key in keys if key in value] if isinstance(value, Mapping) else []
        present = present or [key for key in keys if hasattr(value, key)]
        return f"<{present[0]}>" if len(present) == 1 else None

    message = f"needs exactly one of {', '.join(keys)}; keep or add one of them"
    return Discriminator(tag, OWN_WORDS, custom_error_message=message)


ModelSource = Annotated[
    Annotated[LocalModel, Tag("<path>")]
    | Annotated[HubModel, Tag("<hub>")]
    | Annotated[UriModel, Tag("<uri>")],
    one_of("path", "hub", "uri"),
]
