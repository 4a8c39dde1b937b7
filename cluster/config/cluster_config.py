"""cluster.yaml, the one file that a user writes, as frozen models. It is checked before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.config import JsonDict

from cluster.config.base import LoadContext, StrictConfig, problems
from cluster.config.embedder import AnyEmbedderConfig, EmbedderConfig
from cluster.config.expert import (
    AdapterExpertConfig,
    AnyExpertConfig,
    AnyServingExpertConfig,
    ModelExpertConfig,
    ReplicatedExpertConfig,
    ShadowConfig,
)
from cluster.config.http import HttpConfig
from cluster.config.kubernetes import KubernetesConfig
from cluster.config.loaded_model import LoadedModelConfig, MetaConfig
from cluster.config.pool import PoolConfig, pool_problems
from cluster.config.replicated_model import ReplicatedConfig
from cluster.config.router import RouterConfig, TracingConfig
from cluster.config.routing import RoutingConfig
from cluster.errors import ConfigError
from cluster.yaml_files.reader import read_yaml
from experts.names import EXPERT_NAME
from router.chain_rules import CHAIN_STOP
from router.table import META

ROUTER = "router"
NamedBlock = TypeVar("NamedBlock", bound=ReplicatedConfig)
_NAMES: JsonDict = {"propertyNames": {"pattern": f"^(?:{EXPERT_NAME.pattern})$"}}


class ClusterConfig(StrictConfig, title="cluster.yaml"):
    """A whole cluster. Only `meta` is required."""

    name: str = Field(
        "generalist",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="Name of the cluster, and of the model that clients send requests to.",
    )
    meta: MetaConfig = Field(description="The LLM that answers, and that decides when to hand over.")
    entries: dict[str, AnyExpertConfig] = Field(
        {},
        alias="experts",
        description="The experts, by name. Each has exactly one of `model`, `adapter`, `remote`, `shadow`.",
        json_schema_extra=_NAMES,
    )
    pools: dict[str, PoolConfig] = Field(
        {},
        description="Models that serve several experts as LoRA adapters, by name.",
        json_schema_extra=_NAMES,
    )
    embeddings: dict[str, AnyEmbedderConfig] = Field(
        {},
        description="Models for `/v1/embeddings`, by name, each with one of `model`, `remote`.",
        json_schema_extra=_NAMES,
    )
    routing: RoutingConfig = Field(
        RoutingConfig(), description="When the meta hands over, and what happens when a model fails."
    )
    http: HttpConfig = Field(
        HttpConfig(), description="Where the cluster listens, and which clients it answers."
    )
    router: RouterConfig = Field(RouterConfig(), description="The replicas that take requests.")
    tracing: TracingConfig | None = Field(
        None, description="Traces of requests, for OpenTelemetry. By default none are made."
    )
    log_format: Literal["text", "json"] = Field(
        "text",
        description="How the router and the models write their logs: as text, or as one JSON object a line.",
    )
    kubernetes: KubernetesConfig | None = Field(
        None, description="Settings for `etr render k8s`. By default the cluster does not run on Kubernetes."
    )

    _source: Path = PrivateAttr(Path("cluster.yaml"))
    _models_are_here: bool = PrivateAttr(True)

    @property
    def source(self) -> Path:
        """The file that the config was read from, for messages."""
        return self._source

    @property
    def models_are_here(self) -> bool:
        """Whether the paths of models and adapters are on this machine."""
        return self._models_are_here

    @property
    def experts(self) -> dict[str, AnyServingExpertConfig]:
        """The experts that the meta can hand over to, by name in the order of the file."""
        return {name: block for name, block in self.entries.items() if not isinstance(block, ShadowConfig)}

    @property
    def shadows(self) -> dict[str, ShadowConfig]:
        """The experts on trial, by name in sorted order."""
        return {
            name: block for name, block in sorted(self.entries.items()) if isinstance(block, ShadowConfig)
        }

    @property
    def models(self) -> dict[str, ReplicatedConfig]:
        """Every model with replicas of its own, by its dotted place in the file; the meta first."""
        experts = {f"experts.{name}": block for name, block in self.replicated_experts.items()}
        pools = {f"pools.{name}": pool for name, pool in self.pools.items()}
        embedders = {f"embeddings.{name}": block for name, block in self.embeddings.items()}
        return {"meta": self.meta, **experts, **pools, **embedders}

    @property
    def loaded_models(self) -> list[LoadedModelConfig | EmbedderConfig]:
        """The models that replicas of this cluster load."""
        embedders = [block for block in self.embeddings.values() if isinstance(block, EmbedderConfig)]
        return [self.meta, *self.local_experts.values(), *self.pools.values(), *embedders]

    @property
    def replicated_experts(self) -> dict[str, ReplicatedExpertConfig]:
        """Experts with replicas of their own, by name in sorted order."""
        return {
            name: block
            for name, block in sorted(self.experts.items())
            if isinstance(block, ReplicatedExpertConfig)
        }

    @property
    def local_experts(self) -> dict[str, ModelExpertConfig]:
        """Experts with a model of their own, by name in sorted order."""
        return {
            name: block
            for name, block in sorted(self.experts.items())
            if isinstance(block, ModelExpertConfig)
        }

    @property
    def adapter_experts(self) -> dict[str, AdapterExpertConfig]:
        """Experts that share the replicas of a pool or of the meta, by name in sorted order."""
        return {
            name: block
            for name, block in sorted(self.experts.items())
            if isinstance(block, AdapterExpertConfig)
        }

    def base_of(self, expert: AdapterExpertConfig) -> LoadedModelConfig:
        """The pool that the expert is an adapter in, or the meta."""
        pool = expert.adapter.pool
        return self.meta if pool == META else self.pools[pool]

    @field_validator("entries")
    @classmethod
    def _names_are_valid(cls, entries: dict[str, AnyExpertConfig]) -> dict[str, AnyExpertConfig]:
        for name in entries:
            if name in (META, CHAIN_STOP):
                raise ValueError(f"the name '{name}' is reserved; rename that expert")
            if not EXPERT_NAME.fullmatch(name):
                raise ValueError(
                    f"'{name}' is not a valid expert name; use up to 63 of a-z 0-9 . _ - and begin with "
                    "a-z or 0-9"
                )
        return entries

    @field_validator("pools", "embeddings")
    @classmethod
    def _other_names_are_valid(cls, blocks: dict[str, NamedBlock]) -> dict[str, NamedBlock]:
        for name in blocks:
            if name in (META, ROUTER) or not EXPERT_NAME.fullmatch(name):
                raise ValueError(
                    f"'{name}' is not a valid name; use up to 63 of a-z 0-9 . _ -, but not {META} or {ROUTER}"
                )
        return {name: blocks[name] for name in sorted(blocks)}

    @model_validator(mode="after")
    def _embedders_have_names_of_their_own(self) -> Self:
        if duplicates := sorted(self.embeddings.keys() & {*self.pools, *self.entries}):
            raise ValueError(f"embeddings.{duplicates[0]}: an expert or a pool has the same name; rename one")
        return self

    @model_validator(mode="after")
    def _pools_fit_their_experts(self, info: ValidationInfo) -> Self:
        if duplicates := sorted(self.pools.keys() & self.entries.keys()):
            raise ValueError(f"pools.{duplicates[0]}: an expert has the same name; rename one")
        read_files = LoadContext.of(info).models_required
        pools = {META: self.meta, **self.pools}
        for problem in pool_problems(self.adapter_experts, pools, read_files=read_files):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _shadows_replace_experts(self) -> Self:
        for name, shadow in self.shadows.items():
            if shadow.replaces is not None and shadow.replaces not in self.experts:
                raise ValueError(
                    f"experts.{name}.replaces: no expert named '{shadow.replaces}'; correct it or remove it"
                )
        return self

    @model_validator(mode="after")
    def _aliases_stand_for_models(self) -> Self:
        for problem in self.http.alias_problems(self.name, (*self.experts, *self.embeddings)):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _deadlines_end_before_the_answer(self) -> Self:
        total_s = self.routing.deadlines.total_s
        for place, block in self.models.items():
            for name, value in block.deadlines.own().items():
                if value > total_s:
                    raise ValueError(
                        f"{place}.deadlines.{name}: {value:g} has no effect above routing.deadlines.total_s "
                        f"{total_s:g}; lower it"
                    )
        return self


def load_config(
    path: Path | str, *, tokens_required: bool = True, models_required: bool = True
) -> ClusterConfig:
    """Read and check a cluster.yaml. Relative paths in it start at its folder.

    `tokens_required=False` allows missing token files, for the command that makes them.
    `models_required=False` allows absolute paths that do not exist here, for models on other machines.

    Raises:
        ConfigError: with one line per problem.
    """
    path = Path(path)
    return check_config(
        read_yaml(path), path, tokens_required=tokens_required, models_required=models_required
    )


def check_config(
    data: Any, path: Path, *, tokens_required: bool = True, models_required: bool = True
) -> ClusterConfig:
    """`load_config` for `data` that `path` has or is about to get."""
    context = LoadContext(path.absolute().parent, tokens_required, models_required)
    try:
        config = ClusterConfig.model_validate({} if data is None else data, context=context)
    except ValidationError as error:
        raise ConfigError([f"{path}: {problem}" for problem in problems(error, data, context)]) from error
    config._source = path
    config._models_are_here = models_required
    return config
