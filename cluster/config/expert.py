"""The entries of `experts:` in cluster.yaml: own models, adapters in a pool, and models behind a URL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, Tag, ValidationInfo, field_validator, model_validator

from cluster.config.base import LoadContext, StrictConfig
from cluster.config.loaded_model import ReadingModelConfig, with_text
from cluster.config.model_source import AnyAdapterConfig, one_of
from cluster.config.replicated_model import ReplicatedConfig, ResourcesConfig
from experts.engine.config import OpenAIConfig
from router.media_rules import Modality


def _token_file(token: str, info: ValidationInfo) -> str:
    if "://" in token:
        return token
    context = LoadContext.of(info)
    path = (context.folder / Path(token).expanduser()).resolve()
    if context.tokens_required and not path.is_file():
        raise ValueError(f"no such file '{path}'; make it with `etr learn` or correct the path")
    return str(path)


TokenFile = Annotated[str, AfterValidator(_token_file)]


class ExpertConfig(StrictConfig):
    """The keys of every kind of expert that serves requests."""

    token: TokenFile = Field(
        description="File or URI of its expert token, which `etr learn` and `etr experts add` write."
    )
    cold_start: Literal["wait", "meta"] = Field(
        "wait",
        description="What happens to a call while no replica has started. `wait`: it waits, up to "
        "`routing.deadlines.wake_s`. `meta`: the meta answers meanwhile. Only with `min_replicas: 0`.",
    )
    on_unavailable: Literal["wait", "meta"] = Field(
        "meta",
        description="What happens to a call while no replica is healthy. `wait`: it waits for one. `meta`: "
        "the "
        "meta answers.",
    )


class ShadowConfig(StrictConfig, title="shadow expert"):
    """An expert on trial: the meta scores its token at every decision, but never hands over to it. It needs
    no model and no replicas. Metrics and the decision log say how often it would have taken over."""

    shadow: Literal[True] = Field(description="Marks the entry. Without it, the entry needs a model.")
    token: TokenFile = Field(
        description="File or URI of the expert token. If the entry replaces an expert, it may be a token of "
        "that expert, learned anew."
    )
    replaces: str | None = Field(
        None,
        description="The expert whose place the token would take. It is compared with all others. By default "
        "it would be one more expert.",
    )


class ReplicatedExpertConfig(ReplicatedConfig, ExpertConfig):
    """The keys of an expert with replicas of its own."""


class ModelExpertConfig(ReadingModelConfig, ReplicatedExpertConfig, title="expert with a model of its own"):
    """An expert with a model and replicas of its own."""


class AdapterExpertConfig(ExpertConfig, title="expert as an adapter in a pool"):
    """An expert that is a LoRA adapter on the model of a pool, or of the meta. It shares their replicas."""

    adapter: AnyAdapterConfig = Field(description="Where the LoRA adapter comes from, and its pool.")


class RemoteConfig(OpenAIConfig, StrictConfig, title="remote"):
    """A model behind a URL that speaks the OpenAI API."""


class RemoteResourcesConfig(ResourcesConfig, title="resources (of a model behind a URL)"):
    """What one replica of a model behind a URL reserves in Ray. It only forwards requests."""

    num_cpus: float = Field(
        0.1, ge=0, description="CPUs that one replica reserves. A fraction below 1, or a whole number."
    )

    @model_validator(mode="after")
    def _runs_no_model(self) -> Self:
        for name in ("num_gpus", "accelerator_type", "tensor_parallel", "pipeline_parallel"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect on a model that runs elsewhere; remove it")
        return self


class RemoteExpertConfig(ReplicatedExpertConfig, title="expert behind a URL"):
    """An expert that another server runs. Its replicas here only forward requests."""

    streams_field = "remote.max_streams"

    remote: RemoteConfig = Field(description="The server, and how to call it.")
    modalities: list[Modality] = Field(
        ["text"],
        description="What the model reads: `text`, and `image`, `audio` (WAV, MP3) or `file` (PDF) if its "
        "server takes them in messages.",
    )
    resources: RemoteResourcesConfig = Field(
        RemoteResourcesConfig(), description="What one forwarding replica reserves in Ray."
    )

    @property
    def max_streams(self) -> int:
        return self.remote.max_streams

    @field_validator("modalities")
    @classmethod
    def _has_text(cls, modalities: list[Modality]) -> list[Modality]:
        return with_text(modalities)

    @model_validator(mode="after")
    def _scales_by_requests(self) -> Self:
        if self.autoscaling.target_tokens_in_flight is not None:
            raise ValueError(
                "autoscaling.target_tokens_in_flight has no effect on a remote expert, because only its "
                "server can count the tokens of a prompt; use target_ongoing_requests"
            )
        return self


def modalities_of(expert: AnyServingExpertConfig, pools: Mapping[str, ReadingModelConfig]) -> list[Modality]:
    """What an expert reads. An adapter reads what its pool does; in the meta, which is no pool here, text."""
    match expert:
        case RemoteExpertConfig():
            return expert.modalities
        case ModelExpertConfig():
            return expert.reads
        case AdapterExpertConfig():
            pool = pools.get(expert.adapter.pool)
            return pool.reads if pool else ["text"]


def read_media(
    meta: ReadingModelConfig,
    experts: Iterable[AnyServingExpertConfig],
    pools: Mapping[str, ReadingModelConfig],
) -> bool:
    """Whether any of the models reads more than text."""
    read = (modalities_of(expert, pools) for expert in experts)
    return any(len(modalities) > 1 for modalities in (meta.reads, *read))


AnyServingExpertConfig = ModelExpertConfig | AdapterExpertConfig | RemoteExpertConfig
AnyExpertConfig = Annotated[
    Annotated[ModelExpertConfig, Tag("<model>")]
    | Annotated[AdapterExpertConfig, Tag("<adapter>")]
    | Annotated[RemoteExpertConfig, Tag("<remote>")]
    | Annotated[ShadowConfig, Tag("<shadow>")],
    one_of("model", "adapter", "remote", "shadow"),
]
