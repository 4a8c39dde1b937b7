"""The `pools` block of cluster.yaml: one model in one engine, and the experts that are adapters on it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import model_validator

from cluster.adapter_source import LocalAdapter
from cluster.blocks import ServedModel
from cluster.engine_block import VllmEngine
from cluster.expert_block import AdapterExpert
from cluster.model_source import LocalModel
from experts.adapter import read_adapter
from experts.engine.config import DEFAULT_ADAPTER_RANK
from experts.errors import ModelLoadError


class PoolBlock(ServedModel):
    """It may be there before its experts, for its model takes minutes to load and they take seconds."""

    has_adapters = True

    @model_validator(mode="after")
    def _takes_adapters(self) -> Self:
        if not isinstance(self.engine, VllmEngine):
            raise ValueError(f"engine.kind {self.engine.kind} takes no adapters; use kind: vllm")
        if not self.engine.max_adapters:
            raise ValueError("engine.max_adapters is required: how many experts the pool may have; add it")
        return self

    @property
    def max_adapters(self) -> int:
        return self.engine.max_adapters if isinstance(self.engine, VllmEngine) else 0

    @property
    def max_adapter_rank(self) -> int:
        rank = self.engine.max_adapter_rank if isinstance(self.engine, VllmEngine) else None
        return rank or DEFAULT_ADAPTER_RANK


def pool_problems(
    experts: Mapping[str, AdapterExpert], pools: Mapping[str, PoolBlock], *, look: bool
) -> Iterator[str]:
    """What is wrong between adapters and their pools; with `look`, also with the files of both."""
    for name, expert in experts.items():
        pool = pools.get(expert.adapter.pool)
        if pool is None:
            known = ", ".join(pools) or "none"
            yield (
                f"experts.{name}.adapter.pool: there is no pool '{expert.adapter.pool}'; correct it or add "
                f"it to pools (there: {known})"
            )
        elif expert.cold_start == "meta" and pool.autoscaling.min_replicas > 0:
            yield (
                f"experts.{name}: cold_start: meta has no effect; set pools.{expert.adapter.pool}."
                "autoscaling.min_replicas: 0 or remove it"
            )
        elif look:
            yield from _misfit(name, expert, pool)
    yield from _overfull(experts, pools)


def _overfull(experts: Mapping[str, AdapterExpert], pools: Mapping[str, PoolBlock]) -> Iterator[str]:
    for name, pool in pools.items():
        members = [expert for expert in experts.values() if expert.adapter.pool == name]
        if len(members) > pool.max_adapters:
            yield (
                f"pools.{name}.engine.max_adapters: {pool.max_adapters} is below the {len(members)} experts "
                "of the pool; raise it"
            )


def _misfit(name: str, expert: AdapterExpert, pool: PoolBlock) -> Iterator[str]:
    if not isinstance(expert.adapter, LocalAdapter):
        return
    try:
        adapter = read_adapter(expert.adapter.path)
        adapter.require_fit(hidden_size=_hidden_size(pool), max_rank=pool.max_adapter_rank)
    except ModelLoadError as error:
        yield f"experts.{name}.adapter.path: {error}"


def _hidden_size(pool: PoolBlock) -> int | None:
    """Of the pool's model, where its configuration is here and says so."""
    if not isinstance(pool.model, LocalModel):
        return None
    try:
        config: Any = json.loads((pool.model.path / "config.json").read_bytes())
        size = config.get("text_config", config).get("hidden_size")
    except (OSError, ValueError, AttributeError):
        return None  # the replica that loads it will say what is wrong
    return size if isinstance(size, int) else None
