"""cluster.yaml: the one file a user writes, as frozen models; what is wrong is said before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cluster.blocks import Autoscaling, Replicated, ServedModel
from cluster.errors import ConfigError
from cluster.http_block import DEFAULT_HOST as DEFAULT_HOST  # as others know them
from cluster.http_block import DEFAULT_PORT as DEFAULT_PORT
from cluster.http_block import HttpBlock
from cluster.k8s_block import KubernetesBlock
from cluster.model_source import one_of
from cluster.remote_block import RemoteResources, RemoteSource
from cluster.router_block import AlwaysThere
from cluster.router_block import RouterBlock as RouterBlock
from cluster.routing_block import RoutingBlock as RoutingBlock
from cluster.strict import LoadContext, Strict, problems
from cluster.yaml_file import read_yaml
from experts.names import EXPERT_NAME
from router.table import META


class MetaBlock(ServedModel):
    """The model that writes, and hands over."""

    autoscaling: AlwaysThere = Autoscaling()


class Expert(Strict):
    """Every kind of expert has a token: the vector by which the meta calls it. A path or a URI."""

    token: str

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
    """An expert with replicas of its own.

    What becomes of a call while the model starts (`cold_start`), and while all its replicas are dead or hang
    (`when_away`): it waits, or the meta answers it.
    """

    cold_start: Literal["wait", "meta"] = "wait"
    when_away: Literal["wait", "meta"] = "meta"

    @model_validator(mode="after")
    def _cold_start_takes_effect(self) -> Self:
        if self.cold_start == "meta" and self.autoscaling.min_replicas > 0:
            raise ValueError("cold_start: meta has no effect; set autoscaling.min_replicas: 0 or remove it")
        return self


class ModelExpert(ServedModel, ReplicatedExpert):
    """An expert with a model of its own."""


class AdapterSource(Strict):
    path: Annotated[Path, Field(strict=False)]
    pool: str


class AdapterExpert(Expert):
    adapter: AdapterSource

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        raise ValueError("adapter experts are not built yet; use model: {path: …}")


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


class ClusterConfig(Strict):
    """A whole cluster.yaml. `name` is the model that clients ask for."""

    name: str = Field("generalist", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    meta: MetaBlock
    experts: dict[str, AnyExpert] = {}
    pools: dict[str, ServedModel] = {}
    routing: RoutingBlock = RoutingBlock()
    http: HttpBlock = HttpBlock()
    router: RouterBlock = RouterBlock()
    kubernetes: KubernetesBlock | None = None

    _source: Path = PrivateAttr(Path("cluster.yaml"))

    @property
    def source(self) -> Path:
        """The file it was read from, for messages."""
        return self._source

    @property
    def models(self) -> dict[str, Replicated]:
        """Whatever has replicas of its own by its dotted place in the file, the meta first."""
        experts = {f"experts.{name}": block for name, block in self.replicated_experts.items()}
        return {"meta": self.meta, **experts}

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
    def _refuse_pools(cls, pools: dict[str, ServedModel]) -> dict[str, ServedModel]:
        if pools:
            raise ValueError("pools are not built yet; give every expert its own model: {path: …}")
        return pools

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
    return config
