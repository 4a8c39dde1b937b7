"""cluster.yaml: the one file a user writes, as frozen models; what is wrong is said before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import (
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cluster.blocks import Autoscaling, Replicated, ServedModel
from cluster.errors import ConfigError
from cluster.expert_block import AdapterExpert, AnyExpert, ModelExpert, ReplicatedExpert
from cluster.http_block import DEFAULT_HOST as DEFAULT_HOST  # as others know them
from cluster.http_block import DEFAULT_PORT as DEFAULT_PORT
from cluster.http_block import HttpBlock
from cluster.k8s_block import KubernetesBlock
from cluster.pool_block import PoolBlock, pool_problems
from cluster.router_block import AlwaysThere
from cluster.router_block import RouterBlock as RouterBlock
from cluster.routing_block import RoutingBlock as RoutingBlock
from cluster.strict import LoadContext, Strict, problems
from cluster.yaml_file import read_yaml
from experts.names import EXPERT_NAME
from router.table import META

ROUTER = "router"


class MetaBlock(ServedModel):
    """The model that writes, and hands over."""

    autoscaling: AlwaysThere = Autoscaling()


class ClusterConfig(Strict):
    """A whole cluster.yaml. `name` is the model that clients ask for."""

    name: str = Field("generalist", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    meta: MetaBlock
    experts: dict[str, AnyExpert] = {}
    pools: dict[str, PoolBlock] = {}
    routing: RoutingBlock = RoutingBlock()
    http: HttpBlock = HttpBlock()
    router: RouterBlock = RouterBlock()
    kubernetes: KubernetesBlock | None = None

    _source: Path = PrivateAttr(Path("cluster.yaml"))
    _models_are_here: bool = PrivateAttr(True)

    @property
    def source(self) -> Path:
        """The file it was read from, for messages."""
        return self._source

    @property
    def models_are_here(self) -> bool:
        """Whether paths of models and adapters are those of this machine."""
        return self._models_are_here

    @property
    def models(self) -> dict[str, Replicated]:
        """Whatever has replicas of its own by its dotted place in the file, the meta first."""
        experts = {f"experts.{name}": block for name, block in self.replicated_experts.items()}
        return {"meta": self.meta, **experts, **{f"pools.{name}": pool for name, pool in self.pools.items()}}

    @property
    def loaded_models(self) -> list[ServedModel]:
        """Those that replicas of this cluster load."""
        return [self.meta, *self.local_experts.values(), *self.pools.values()]

    @property
    def replicated_experts(self) -> dict[str, ReplicatedExpert]:
        """Experts with replicas of their own, by name in sorted order."""
        return {
            name: block for name, block in sorted(self.experts.items()) if isinstance(block, ReplicatedExpert)
        }

    @property
    def local_experts(self) -> dict[str, ModelExpert]:
        """Experts with a model of their own, by name in sorted order."""
        return {name: block for name, block in sorted(self.experts.items()) if isinstance(block, ModelExpert)}

    @property
    def adapter_experts(self) -> dict[str, AdapterExpert]:
        """Experts that share the replicas of a pool, by name in sorted order."""
        return {
            name: block for name, block in sorted(self.experts.items()) if isinstance(block, AdapterExpert)
        }

    @field_validator("experts")
    @classmethod
    def _names_are_usable(cls, experts: dict[str, AnyExpert]) -> dict[str, AnyExpert]:
        for name in experts:
            if name == META:
                raise ValueError(f"the name '{name}' is reserved; rename that expert")
            if not EXPERT_NAME.fullmatch(name):
                raise ValueError(
                    f"'{name}' is no expert name; use up to 63 of a-z 0-9 . _ - and begin with a-z or 0-9"
                )
        return experts

    @field_validator("pools")
    @classmethod
    def _pools_have_names(cls, pools: dict[str, PoolBlock]) -> dict[str, PoolBlock]:
        for name in pools:
            if name in (META, ROUTER) or not EXPERT_NAME.fullmatch(name):
                raise ValueError(
                    f"'{name}' is no pool name; use up to 63 of a-z 0-9 . _ - and neither {META} nor {ROUTER}"
                )
        return {name: pools[name] for name in sorted(pools)}

    @model_validator(mode="after")
    def _pools_fit_their_experts(self, info: ValidationInfo) -> Self:
        if twice := sorted(self.pools.keys() & self.experts.keys()):
            raise ValueError(f"pools.{twice[0]}: an expert is called '{twice[0]}' too; rename one")
        look = LoadContext.of(info).models_required
        for problem in pool_problems(self.adapter_experts, self.pools, look=look):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _deadlines_end_before_the_answer(self) -> Self:
        total_s = self.routing.deadlines.total_s
        for where, block in self.models.items():
            for name, value in block.deadlines.own().items():
                if value > total_s:
                    raise ValueError(
                        f"{where}.deadlines.{name}: {value:g} has no effect above routing.deadlines.total_s "
                        f"{total_s:g}; lower it"
                    )
        return self


def load_config(
    path: Path | str, *, tokens_required: bool = True, models_required: bool = True
) -> ClusterConfig:
    """Read and check a cluster.yaml. Paths in it are resolved against its folder.

    `tokens_required=False` lets token files be missing, for the command that makes them.
    `models_required=False` takes absolute paths of models as they are, for models of another machine.

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
    """`load_config` for the `data` that `path` holds, or is to hold."""
    context = LoadContext(path.absolute().parent, tokens_required, models_required)
    try:
        config = ClusterConfig.model_validate({} if data is None else data, context=context)
    except ValidationError as error:
        raise ConfigError([f"{path}: {problem}" for problem in problems(error, data, context)]) from error
    config._source = path
    config._models_are_here = models_required
    return config
