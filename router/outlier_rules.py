"""When a replica is set aside because too many of its calls fail."""

from __future__ import annotations

from pydantic import Field

from router.frozen import Frozen


class OutlierRules(Frozen):
    """When a replica that answers with errors is set aside. Mistakes of clients are no errors."""

    num_calls: int = Field(20, ge=2, le=1000, description="Calls of a replica that are looked back on.")
    error_share: float = Field(
        0.5, gt=0, lt=1, description="Share of these that may fail; above it, the replica is set aside."
    )
    aside_s: float = Field(
        30.0, gt=0, description="Seconds until it may return, which it does when it answers a probe."
    )
    max_share_aside: float = Field(
        0.5, ge=0, le=1, description="Share of a model's replicas that may be set aside at once."
    )
