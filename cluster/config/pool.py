"""The `pools` block of cluster.yaml: one engine with a model, and experts that are LoRA adapters on it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import model_validator

from cluster.config.expert import AdapterExpertConfig
from cluster.config.loaded_model import LoadedModelConfig, ReadingModelConfig
from cluster.config.model_source import LocalAdapterConfig, LocalModelConfig
from experts.adapter import read_adapter
from experts.errors import ModelLoadError
from router.table import META


class PoolConfig(ReadingModelConfig, title="pool"):
    """A model that serves several experts, each a LoRA adapter. A pool may exist before its experts: its
    model takes minutes to load, an adapter seconds."""

    @property
    def takes_adapters(self) -> bool:
        return True

    @model_validator(mode="after")
    def _has_room_for_adapters(self) -> Self:
        if not self.max_adapters:
            raise ValueError(
                "engine.max_adapters is required: the most experts that the pool may have; add it"
            )
        return self

    @model_validator(mode="after")
    def _serves_a_plain_model(self) -> Self:
        if self.model.adapter is not None:
            raise ValueError(
                "model.adapter: the adapters of a pool were trained on its model without another adapter; "
                "remove it, or give the expert a model of its own"
            )
        return self


def pool_problems(
    experts: Mapping[str, AdapterExpertConfig], pools: Mapping[str, LoadedModelConfig], *, read_files: bool
) -> Iterator[str]:
    """Yield what is wrong between adapters and their pools; with `read_files`, also between their files.

    `pools`: the meta is one of them.
    """
    for name, expert in experts.items():
        pool = pools.get(expert.adapter.pool)
        if pool is None:
            yield (
                f"experts.{name}.adapter.pool: there is no pool '{expert.adapter.pool}'; correct it, or add "
                f"the pool (pools: {', '.join(pools)})"
            )
            continue
        if expert.adapter.pool == META:
            yield from _not_in_place(name, expert, pool)
        if read_files:
            yield from _misfit(name, expert, pool)
    yield from _overfull(experts, pools)


def _not_in_place(name: str, expert: AdapterExpertConfig, meta: LoadedModelConfig) -> Iterator[str]:
    """Why the expert cannot live in the meta."""
    if meta.model.adapter is not None:
        yield (
            f"meta.model.adapter: the adapter of experts.{name} was trained on the meta's model without "
            "another adapter; remove it, or put the expert's into a pool"
        )
    for setting in ("cold_start", "on_unavailable"):
        if setting in expert.model_fields_set:
            yield f"experts.{name}.{setting} has no effect with pool: meta, which answers itself; remove it"


def _overfull(
    experts: Mapping[str, AdapterExpertConfig], pools: Mapping[str, LoadedModelConfig]
) -> Iterator[str]:
    for name, pool in pools.items():
        members = [expert for expert in experts.values() if expert.adapter.pool == name]
        if len(members) > pool.max_adapters:
            place = META if name == META else f"pools.{name}"
            yield (
                f"{place}.engine.max_adapters: {pool.max_adapters} is below the {len(members)} experts "
                f"of the {'meta' if name == META else 'pool'}; raise it"
            )


def _misfit(name: str, expert: AdapterExpertConfig, pool: LoadedModelConfig) -> Iterator[str]:
    if not isinstance(expert.adapter, LocalAdapterConfig):
        return
    try:
        adapter = read_adapter(expert.adapter.path)
        adapter.require_fit(hidden_size=_hidden_size(pool), max_rank=pool.max_adapter_rank)
        adapter.activation(expert.adapter.invocation_in_place)
    except ModelLoadError as error:
        yield f"experts.{name}.adapter.path: {error}"


def _hidden_size(pool: LoadedModelConfig) -> int | None:
    """The hidden size of the pool's model, if its config.json is on this machine and has one."""
    if not isinstance(pool.model, LocalModelConfig):
        return None
    try:
        config: Any = json.loads((pool.model.path / "config.json").read_bytes())
        size = config.get("text_config", config).get("hidden_size")
    except (OSError, ValueError, AttributeError):
        return None  # the replica that loads the model reports it
    return size if isinstance(size, int) else None
