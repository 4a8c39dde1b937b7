"""Request ids of probes.

"probe 7" goes to any replica, "probe 7 r1" to the replica "r1". The number keeps apart probes that run at the
same time, for example those of two adapters of one pool. The request id of an answer contains no space.
"""

from __future__ import annotations

from itertools import count

_PREFIX = "probe "
_numbers = count(1)


def new_probe_id(replica: str | None = None) -> str:
    """An id that no other probe of this process has; `replica` is where the probe must go, None: anywhere."""
    number = f"{_PREFIX}{next(_numbers)}"
    return number if replica is None else f"{number} {replica}"


def is_probe(request_id: str) -> bool:
    return request_id.startswith(_PREFIX)


def probed_replica(request_id: str) -> str | None:
    """The replica that the probe must go to; None if it may go anywhere, and for anything but a probe."""
    if not is_probe(request_id):
        return None
    _, _, replica = request_id.removeprefix(_PREFIX).partition(" ")
    return replica or None
