"""The entries of `experts:` in cluster.yaml: own models, adapters in a pool, and what others serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Tag, ValidationInfo, field_validator, model_validator

from cluster.adapter_source import AnyAdapter
from cluster.blocks import Replicated, ServedModel
from cluster.model_source import one_of
from cluster.remote_block import RemoteResources, RemoteSource
from cluster.strict import LoadContext, Strict


class Expert(Strict):
    """Every kind of expert has a token: the vector by which the meta calls it. A path or a URI.

    What becomes of a call while the model starts (`cold_start`), and while all its replicas are dead or hang
    (`when_away`): it waits, or the meta answers it.
    """

    token: str
    cold_start: Literal["wait", "meta"] = "wait"
    when_away: Literal["wait", "meta"] = "meta"

    @field_validator("token")
    @classmethod
    def _is_there(cls, token: str, info: ValidationInfo) -> str:
        if "://" in token:
            return token
        context = LoadContext.of(info)
        path = (context.folder / Path(token).expanduser()).resolve()
        if context.tokens_required and not path.is_file():
            raise ValueError(f"no such file '{path}'; make it with `etr learn` or correct the path")
        return str(path)


class ReplicatedExpert(Replicated, Expert):
    """An expert with replicas of its own."""

    @model_validator(mode="after")
    def _cold_start_takes_effect(self) -> Self:
        if self.cold_start == "meta" and self.autoscaling.min_replicas > 0:
            raise ValueError("cold_start: meta has no effect; set autoscaling.min_replicas: 0 or remove it")
        return self


class ModelExpert(ServedModel, ReplicatedExpert):
    """An expert with a model of its own."""


class AdapterExpert(Expert):
    """An expert that is a LoRA adapter on the model of a pool, whose replicas it shares."""

    adapter: AnyAdapter


class RemoteExpert(ReplicatedExpert):
    """An expert that others serve; its replicas only pass calls on."""

    streams_field = "remote.max_streams"

    remote: RemoteSource
    resources: RemoteResources = RemoteResources()

    @property
    def max_streams(self) -> int:
        return self.remote.max_streams

    @model_validator(mode="after")
    def _scales_by_requests(self) -> Self:
        if self.autoscaling.target_tokens_in_flight is not None:
            raise ValueError(
                "autoscaling.target_tokens_in_flight has no effect on a remote expert, whose prompts its "
                "server alone can count; use target_ongoing_requests"
            )
        return self


AnyExpert = Annotated[
    Annotated[ModelExpert, Tag("<model>")]
    | Annotated[AdapterExpert, Tag("<adapter>")]
    | Annotated[RemoteExpert, Tag("<remote>")],
    one_of("model", "adapter", "remote"),
]
