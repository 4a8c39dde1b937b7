"""Where a checkpoint is: the `model` block of cluster.yaml."""

from __future__ import annotations

from pydantic import Field, model_validator

from experts.engine.config.base import FrozenConfig


class ModelSource(FrozenConfig):
    """Where a checkpoint is: exactly one of `path`, `hub` and `uri`."""

    path: str | None = Field(None, description="A folder.")
    hub: str | None = Field(None, description="A Hugging Face hub id, which must be in the local cache.")
    uri: str | None = Field(None, description="An address of a folder, which is downloaded.")
    revision: str | None = Field(None, description="Branch, tag or commit of `hub`.")
    adapter: str | None = Field(
        None, description="LoRA adapter to merge into the loaded model: a folder, or an address of one."
    )
    trust_remote_code: bool = Field(False, description="Let the checkpoint's own Python files run.")

    @model_validator(mode="after")
    def _exactly_one(self) -> ModelSource:
        if sum(source is not None for source in (self.path, self.hub, self.uri)) != 1:
            raise ValueError("give exactly one of path, hub, uri")
        if self.revision is not None and self.hub is None:
            raise ValueError("revision has no effect without hub; remove it")
        return self

    @property
    def source(self) -> str:
        """The path, hub id or URI that is given, as `experts.checkpoint` takes it."""
        return self.path or self.hub or self.uri or ""
