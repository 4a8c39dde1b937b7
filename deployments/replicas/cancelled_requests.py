"""Has Serve log and count requests whose client left."""

from __future__ import annotations

from typing import Any

from ray.serve._private import replica
from ray.serve.context import _get_in_flight_requests


def log_cancelled_requests() -> None:
    """Call it in every replica that has a client's connection. A second call changes nothing.

    When a client leaves, Serve cancels the calls that its request has made. Each cancelled call removes
    itself from the dictionary over which Serve iterates, and the RuntimeError that follows ends Serve's work:
    the request is missing in its access log and metrics. Serve gets a copy of that dictionary instead.
    """
    vars(replica)[_get_in_flight_requests.__name__] = _calls_of


def _calls_of(request_id: str) -> dict[str, Any]:
    return dict(_get_in_flight_requests(request_id))
