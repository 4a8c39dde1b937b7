"""Settings of a cluster.yaml that have no effect at the number of replicas it allows now.

They are not errors, because they may have an effect after the next `etr scale`. A setting that can never
have an effect is refused where it is defined.
"""

from __future__ import annotations

from collections.abc import Iterator

from cluster.config.cluster_config import ROUTER, ClusterConfig
from cluster.config.expert import AdapterExpertConfig, ExpertConfig, ReplicatedExpertConfig, read_media
from cluster.config.replicated_model import AutoscalingConfig

_NUM_REPLICAS = {"min_replicas", "max_replicas", "initial_replicas"}


def unused_settings(config: ClusterConfig) -> Iterator[str]:
    """Yield `dotted.field: why it has no effect; remedy` for each of them."""
    for place, model in config.models.items():
        yield from _unused_autoscaling(f"{place}.autoscaling", model.autoscaling)
    for name, expert in config.experts.items():
        yield from _unused_cold_start(config, name, expert)
    yield from _unused_autoscaling(f"{ROUTER}.autoscaling", config.router.autoscaling)
    if config.routing.chains and len(config.experts) < 2:
        yield "routing.after_expert: chain has no effect with fewer than two experts; add one"
    reads = read_media(config.meta, config.experts.values(), config.pools)
    if config.http.media.model_fields_set and not reads:
        yield "http.media has no effect, because no model reads more than text; set modalities"
    limit, high = config.router.max_replicas_per_node, config.router.autoscaling.max_replicas
    if limit is not None and limit >= high:
        yield (
            f"{ROUTER}.max_replicas_per_node: {limit} has no effect while autoscaling.max_replicas is "
            f"{high}; "
            "raise that or remove it"
        )


def _unused_autoscaling(place: str, autoscaling: AutoscalingConfig) -> Iterator[str]:
    low, high = autoscaling.min_replicas, autoscaling.max_replicas
    for name in sorted(autoscaling.model_fields_set - _NUM_REPLICAS):
        if name == "downscale_to_zero_delay_s":
            if low > 0:
                yield f"{place}.{name}: has no effect while min_replicas is {low}; set it to 0 or remove this"
        elif low == high:
            yield (
                f"{place}.{name}: has no effect while min_replicas and max_replicas are both {low}; raise "
                "max_replicas or remove it"
            )


def _unused_cold_start(config: ClusterConfig, name: str, expert: ExpertConfig) -> Iterator[str]:
    if expert.cold_start != "meta":
        return
    match expert:
        case AdapterExpertConfig():
            place = f"pools.{expert.adapter.pool}"  # in the meta it is refused
            autoscaling = config.base_of(expert).autoscaling
        case ReplicatedExpertConfig():
            place, autoscaling = f"experts.{name}", expert.autoscaling
        case _:
            return
    if autoscaling.min_replicas > 0:
        yield (
            f"experts.{name}.cold_start: meta has no effect while {place}.autoscaling.min_replicas is "
            f"{autoscaling.min_replicas}; set that to 0 or remove it"
        )
