"""The `model` and `adapter` blocks of cluster.yaml: where models and LoRA adapters come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from cluster.config.base import OWN_WORDS, LoadContext, StrictConfig
from experts.adapter import Invocation, read_adapter
from experts.errors import ModelLoadError
from router.table import META

URI_SCHEMES = ("abfs", "file", "gs", "https", "s3")


class SourceConfig(StrictConfig):
    trust_remote_code: bool = Field(
        False,
        description="Run Python files of the checkpoint, with all rights of the replica. They are not "
        "downloaded: they must lie beside the weights.",
    )
    adapter: str | None = Field(
        None,
        description="LoRA adapter that is merged into the model when it is loaded: a folder, or an address "
        "as in `uri`. It needs the extra `learn`.",
    )

    @field_validator("adapter")
    @classmethod
    def _is_adapter(cls, adapter: str | None, info: ValidationInfo) -> str | None:
        if adapter is None:
            return None
        return plain_uri(adapter) if "://" in adapter else str(adapter_path(Path(adapter), info))


class LocalModelConfig(SourceConfig, title="model: path"):
    """A model in a folder."""

    path: Annotated[Path, Field(strict=False)] = Field(
        description="Folder of a Hugging Face checkpoint. A relative path starts at the folder of "
        "cluster.yaml."
    )

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


def adapter_path(path: Path, info: ValidationInfo) -> Path:
    """Check the folder of a LoRA adapter; a relative path starts at the folder of cluster.yaml."""
    context = LoadContext.of(info)
    if not context.models_required:
        return on_another_machine(path)
    folder = (context.folder / path.expanduser()).resolve()
    try:
        read_adapter(folder)
    except ModelLoadError as error:
        raise ValueError(str(error)) from error
    return folder


def on_another_machine(path: Path) -> Path:
    """Check the form of a path on another machine; here it can neither be resolved nor looked up."""
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError(
            f"'{path}' is not absolute; give the absolute path of the model on the machines that serve it"
        )
    return path


class HubModelConfig(SourceConfig, title="model: hub"):
    """A model of the Hugging Face hub. It is taken from the local cache if it is there."""

    hub: str = Field(
        pattern=r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$", description="Id of the model on the hub: `Qwen/Qwen3-8B`."
    )
    revision: str | None = Field(None, description="Branch, tag or commit. By default `main`.")


class UriConfig(StrictConfig):
    uri: str = Field(
        description="Folder in a remote file system: "
        + ", ".join(f"`{scheme}://`" for scheme in URI_SCHEMES)
        + ". Without credentials, which the nodes' environment has."
    )

    @field_validator("uri")
    @classmethod
    def _is_plain(cls, uri: str) -> str:
        return plain_uri(uri)


def plain_uri(uri: str) -> str:
    """Check the address of a folder that replicas fetch."""
    parts = urlsplit(uri)
    if parts.scheme not in URI_SCHEMES or "::" in uri:
        schemes = ", ".join(f"{scheme}://" for scheme in URI_SCHEMES)
        raise ValueError(f"'{uri}' does not begin with one of {schemes}; correct it, or use path")
    # `@` follows credentials, except in abfs, where it follows the container.
    if parts.password is not None or ("@" in parts.netloc and parts.scheme != "abfs"):
        raise ValueError("contains credentials; remove them, and put them into the nodes' environment")
    if parts.query or parts.fragment:
        raise ValueError(f"'{uri}' has a part after ? or #; name a plain folder")
    if not parts.path.strip("/"):
        raise ValueError(f"'{uri}' names no folder; add the path of a Hugging Face checkpoint")
    return uri


class UriModelConfig(UriConfig, SourceConfig, title="model: uri"):
    """A model in a remote file system. Each node that serves it fetches it once."""

    @field_validator("trust_remote_code")
    @classmethod
    def _has_no_code(cls, trust_remote_code: bool) -> bool:
        if trust_remote_code:
            raise ValueError(
                "has no effect with uri, because Python files are never fetched; remove it or use path"
            )
        return trust_remote_code


def one_of(*keys: str) -> Discriminator:
    """A discriminator for a union whose members each have exactly one of `keys`."""

    def tag(value: object) -> str | None:
        present = [key for key in keys if key in value] if isinstance(value, Mapping) else []
        present = present or [key for key in keys if hasattr(value, key)]
        return f"<{present[0]}>" if len(present) == 1 else None

    message = f"needs exactly one of {', '.join(keys)}; keep or add one of them"
    return Discriminator(tag, OWN_WORDS, custom_error_message=message)


AnyModelConfig = Annotated[
    Annotated[LocalModelConfig, Tag("<path>")]
    | Annotated[HubModelConfig, Tag("<hub>")]
    | Annotated[UriModelConfig, Tag("<uri>")],
    one_of("path", "hub", "uri"),
]


class PooledAdapterConfig(StrictConfig):
    pool: str = Field(
        description="Name of the pool whose model the adapter is for. `meta`: it is for the meta's own "
        "model, and the expert takes over in place: within the meta's call, on what the meta has read."
    )
    invocation: Invocation = Field(
        "exact",
        description="How the adapter takes over in place. `exact`: it is an activated LoRA, trained with "
        "PEFT's `alora_invocation_tokens`. `approximate`: an ordinary LoRA, which was trained to read whole "
        "prompts, reads only the last token itself. Only with `pool: meta`.",
    )

    @model_validator(mode="after")
    def _takes_over_in_place(self) -> Self:
        if self.pool != META and "invocation" in self.model_fields_set:
            raise ValueError("invocation has an effect only with pool: meta; remove it")
        return self

    @property
    def invocation_in_place(self) -> Invocation | None:
        """None if the adapter is in a pool of its own."""
        return self.invocation if self.pool == META else None


class LocalAdapterConfig(PooledAdapterConfig, title="adapter: path"):
    """A LoRA adapter in a folder."""

    path: Annotated[Path, Field(strict=False)] = Field(
        description="Folder of the adapter as PEFT writes it. A relative path starts at the folder of "
        "cluster.yaml."
    )

    @property
    def source(self) -> str:
        return str(self.path)

    @field_validator("path")
    @classmethod
    def _is_adapter(cls, path: Path, info: ValidationInfo) -> Path:
        return adapter_path(path, info)


class UriAdapterConfig(UriConfig, PooledAdapterConfig, title="adapter: uri"):
    """A LoRA adapter in a remote file system. Each node that serves it fetches it once."""

    @property
    def source(self) -> str:
        return self.uri


AnyAdapterConfig = Annotated[
    Annotated[LocalAdapterConfig, Tag("<path>")] | Annotated[UriAdapterConfig, Tag("<uri>")],
    one_of("path", "uri"),
]
