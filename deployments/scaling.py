"""How many replicas a model wants: by its requests, as Serve counts them, and by their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.serve.autoscaling_policy import replica_queue_length_autoscaling_policy

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

# What a replica reports: its tokens in flight, as a share of what it should have.
TOKEN_LOAD = "token_load"
POLICY = "deployments.scaling:replicas_wanted"


def replicas_wanted(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """The larger of what requests and what tokens in flight ask for.

    Serve runs it in its controller for every model, ten times a second, pickled by value; and applies delays,
    factors and bounds to what it returns, and the wake of a model without replicas.
    """
    by_requests, _ = replica_queue_length_autoscaling_policy(context)
    loads = (context.aggregated_metrics or {}).get(TOKEN_LOAD, {})
    return max(by_requests, sum(loads.values())), {}
