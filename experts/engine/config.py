"""How a model is loaded and run: the `engine` block of cluster.yaml."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DEFAULT_ADAPTER_RANK = 16  # vLLM's own


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TransformersConfig(Frozen):
    """Hugging Face's continuous batching. The cache is bounded: `cache_tokens` defaults to
    max_streams × max_model_len on a CPU and to what the GPU has left over on a GPU."""

    kind: Literal["transformers"] = "transformers"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int | None = Field(None, ge=16)
    max_streams: int = Field(32, ge=1, le=1024)
    max_batch_tokens: int = Field(512, ge=16)
    cache_tokens: int | None = Field(None, ge=256)
    device_map: str = "auto"
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "sdpa"
    num_threads: int | None = Field(None, ge=1)
    stall_s: float = Field(60.0, gt=0)

    @model_validator(mode="after")
    def _room_for_one(self) -> TransformersConfig:
        if self.cache_tokens and self.max_model_len and self.cache_tokens < self.max_model_len:
            raise ValueError("cache_tokens must be at least max_model_len, or one request cannot run")
        return self


class VllmConfig(Frozen):
    """vLLM, in processes of its own; needs the extra `vllm`.

    The KV cache has `cache_bytes`, or else what `gpu_memory_utilization` leaves over of each GPU (on a CPU,
    of the machine's memory). `tensor_parallel`: the number of devices the model is split over. Room is kept
    for `max_adapters` LoRA adapters at a time, of at most `max_adapter_rank`.
    """

    kind: Literal["vllm"] = "vllm"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int | None = Field(None, ge=16)
    max_streams: int = Field(256, ge=1, le=4096)
    max_batch_tokens: int | None = Field(None, ge=16)
    cache_bytes: int | None = Field(None, ge=2**20)
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    prefix_caching: bool = True
    enforce_eager: bool = False
    tensor_parallel: int = Field(1, ge=1)
    max_adapters: int = Field(0, ge=0)
    max_adapter_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] | None = None
    stall_s: float = Field(60.0, gt=0)

    @model_validator(mode="after")
    def _rank_of_something(self) -> VllmConfig:
        if self.max_adapter_rank and not self.max_adapters:
            raise ValueError("max_adapter_rank has no effect without max_adapters; set that too or remove it")
        return self

    @model_validator(mode="after")
    def _one_size_of_cache(self) -> VllmConfig:
        if self.cache_bytes and self.gpu_memory_utilization:
            raise ValueError("gpu_memory_utilization has no effect beside cache_bytes; remove one")
        return self


EngineConfig = Annotated[TransformersConfig | VllmConfig, Field(discriminator="kind")]


class OpenAIConfig(Frozen):
    """A model behind a URL that speaks the OpenAI API: the `remote` block of cluster.yaml.

    `url` is what stands before `/chat/completions`; `model` is the server's own name for it. The key is what
    the variable `api_key_env` holds where the replica runs. `continuation`: whether the server goes on in an
    assistant turn that has text in it is found out by asking it (`auto`), or taken on trust either way.
    `omit` are fields that it refuses. Each stream has a connection of its own. `retries` are for calls of
    which no byte has come back.
    """

    kind: Literal["openai"] = "openai"
    url: str
    model: str = Field(min_length=1)
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    continuation: Literal["auto", "always", "never"] = "auto"
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    omit: list[Literal["temperature", "top_p", "top_k", "seed", "stream_options"]] = []
    max_streams: int = Field(32, ge=1, le=1024)
    retries: int = Field(2, ge=0, le=10)
    connect_timeout_s: float = Field(5.0, gt=0)
    read_timeout_s: float = Field(300.0, gt=0)  # of silence; the router's deadlines are shorter, as a rule

    @field_validator("url")
    @classmethod
    def _is_plain(cls, url: str) -> str:
        parts = _split(url)
        # First, for no message may show them.
        if "@" in parts.netloc:
            raise ValueError("holds credentials; remove them, and name a variable in api_key_env")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"'{url}' is no http:// or https:// address; give one that ends before /chat")
        if parts.query or parts.fragment:
            raise ValueError("has a part after ? or #; remove it")
        if parts.path.rstrip("/").endswith("/completions"):
            raise ValueError(f"'{url}' names one endpoint; end it before /chat/completions or /completions")
        return url.rstrip("/")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # looked at only now
    except ValueError as error:
        raise ValueError("is no address; correct it") from error
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("has characters that no address has; correct it")
    return parts


class ModelSource(Frozen):
    """A checkpoint: the folder `path`, the `hub` id of one in the local cache, or the `uri` of one.

    Its own Python files run only with `trust_remote_code`.
    """

    path: str | None = None
    hub: str | None = None
    uri: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _exactly_one(self) -> ModelSource:
        if sum(one is not None for one in (self.path, self.hub, self.uri)) != 1:
            raise ValueError("give exactly one of path, hub, uri")
        if self.revision is not None and self.hub is None:
            raise ValueError("revision has no effect without hub; remove it")
        return self

    @property
    def source(self) -> str:
        """What `experts.checkpoint` loads."""
        return self.path or self.hub or self.uri or ""
