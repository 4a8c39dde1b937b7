"""Autoscaling: how many replicas a model needs, by its requests (as Serve counts them) and their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.serve.autoscaling_policy import replica_queue_length_autoscaling_policy

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

# The metric that a replica reports: its tokens in flight, as a fraction of its target.
TOKEN_LOAD = "token_load"
POLICY = "deployments.scaling:replicas_wanted"


def replicas_wanted(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """The larger of the two numbers of replicas: for the requests and for the tokens in flight.

    Serve's controller runs it for every model in each of its control loops, pickled by value. Serve applies
    delays, factors and bounds to the result, and starts a model that has no replicas.
    """
    by_requests, _ = replica_queue_length_autoscaling_policy(context)
    loads = (context.aggregated_metrics or {}).get(TOKEN_LOAD, {})
    return max(by_requests, sum(loads.values())), {}
