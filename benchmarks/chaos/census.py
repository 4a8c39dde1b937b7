"""Memory, objects, tasks, threads and files of every replica, counted in its own process.

Run as a program, this module prints them as JSON. RSS includes memory that the allocator keeps for later, so
it rises without a leak. Memory in use does not.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:  # not needed by the program, which should start fast
    from benchmarks.chaos.replicas import Replica

ACTOR = "SERVE_REPLICA::"
TIMEOUT_S = 120.0
# That is 200 bytes or one small object for each request. A server that answers one request a second would
# lose about 17 MB a day.
MAX_MB_PER_1000_REQUESTS = 0.2
MAX_OBJECTS_PER_1000_REQUESTS = 1000
# Tasks, threads and files. The number of keep-alive connections varies; a leak of one in a hundred requests
# is far more than that.
MAX_COUNT_GROWTH = 20


@dataclass(frozen=True, slots=True)
class Footprint:
    """`in_use_mb`: memory that malloc has handed out, without Python's small objects (`num_objects`).
    `num_tasks`: asyncio tasks that are not done, in all event loops of the process."""

    in_use_mb: float
    num_objects: int
    num_tasks: int
    num_threads: int
    num_fds: int

    def leaks(self, num_requests: int) -> list[str]:
        """Describe the growth that is too large for this number of requests. `self` is the growth."""
        thousands = num_requests / 1000
        problems = []
        if self.in_use_mb > MAX_MB_PER_1000_REQUESTS * thousands:
            problems.append(f"{self.in_use_mb / thousands:.2f} MB in use per 1,000 requests")
        if self.num_objects > MAX_OBJECTS_PER_1000_REQUESTS * thousands:
            problems.append(f"{self.num_objects / num_requests:.1f} objects per request")
        counts = {"tasks": self.num_tasks, "threads": self.num_threads, "files": self.num_fds}
        return [*problems, *(f"{num} {kind}" for kind, num in counts.items() if num > MAX_COUNT_GROWTH)]


Census = Mapping[int, Footprint]  # by process id


def census(address: str, auth_token: str) -> Census:
    """Count in every replica of the cluster whose GCS is at `address`, with a Ray driver in a new process."""
    env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": auth_token}
    command = [sys.executable, "-m", __name__, address]
    output = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    return {int(pid): Footprint(**counts) for pid, counts in json.loads(output.splitlines()[-1]).items()}


def footprint_growth(before: Census, after: Census, replicas: Iterable[Replica]) -> dict[str, Footprint]:
    """The growth by application: of each figure, that of the replica that grew most."""
    growth: dict[str, Footprint] = {}
    for replica in replicas:
        if replica.pid in before and replica.pid in after:
            added = _difference(before[replica.pid], after[replica.pid])
            growth[replica.app] = _maximum(growth.get(replica.app, added), added)
    return dict(sorted(growth.items()))


def leaks(growth: Mapping[str, Footprint], num_requests: int) -> list[str]:
    """Describe the growth that is too large for this number of requests."""
    return [f"{app} keeps {leak}" for app, added in growth.items() for leak in added.leaks(num_requests)]


def _difference(before: Footprint, after: Footprint) -> Footprint:
    return Footprint(**{name: value - asdict(before)[name] for name, value in asdict(after).items()})


def _maximum(first: Footprint, second: Footprint) -> Footprint:
    names = [field.name for field in fields(Footprint)]
    return Footprint(**{name: max(getattr(first, name), getattr(second, name)) for name in names})


def main() -> None:
    ray.init(address=sys.argv[1], namespace="serve", log_to_driver=False)
    try:
        names = [name for name in ray.util.list_named_actors() if name.startswith(ACTOR)]
        counts = [ray.get_actor(name).__ray_call__.remote(count) for name in names]
        print(json.dumps(dict(ray.get(counts, timeout=TIMEOUT_S))))
    finally:
        ray.shutdown()


def count(_: Any) -> tuple[int, dict[str, float]]:
    """Runs in a replica. Returns its process id and the fields of its `Footprint`."""
    for handler in logging.getLogger("ray.serve").handlers:
        handler.flush()  # Serve buffers a thousand records
    gc.collect()
    return os.getpid(), {
        "in_use_mb": _num_malloced_bytes() / 2**20,
        "num_objects": sys.getallocatedblocks(),
        "num_tasks": sum(not task.done() for task in list(asyncio.tasks._all_tasks)),  # type: ignore[attr-defined]
        "num_threads": len(os.listdir("/proc/self/task")),
        "num_fds": len(os.listdir("/proc/self/fd")),
    }


def _num_malloced_bytes() -> int:
    """As glibc counts them, in all of its arenas."""
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"

    class Mallinfo(ctypes.Structure):  # defined here, because its type cannot be pickled
        _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = Mallinfo
    info = libc.mallinfo2()
    return int(info.uordblks + info.hblkhd)


if __name__ == "__main__":
    main()
