"""What every replica holds, as its own process counts it; run as a program, it prints that as JSON.

RSS has also what an allocator keeps for later, so it rises long after nothing new is held. Memory in use does
not: it tells a leak from a high-water mark.
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

if TYPE_CHECKING:  # a driver that starts does without
    from benchmarks.faults.replicas import Replica

ACTOR = "SERVE_REPLICA::"
TIMEOUT_S = 120.0
# For each 1,000 requests: 200 bytes of a request, or one small object. A server that answers one a second
# would lose some 17 MB a day.
WANTED_MB = 0.2
WANTED_OBJECTS = 1000
# Of what is counted and not weighed. Connections that are kept come and go; a leak of one in a hundred
# requests is far more.
WANTED_MORE = 20


@dataclass(frozen=True, slots=True)
class Holding:
    """`in_use_mb`: what malloc has given out, without Python's small objects, which are `num_objects`.
    `num_tasks`: of asyncio, those that are not done, in all loops of the process."""

    in_use_mb: float
    num_objects: int
    num_tasks: int
    num_threads: int
    num_fds: int

    def leaks(self, num_requests: int) -> list[str]:
        """What is too much for so many requests, where this is by how much a replica's holding grew."""
        thousands = num_requests / 1000
        told = []
        if self.in_use_mb > WANTED_MB * thousands:
            told.append(f"{self.in_use_mb / thousands:.2f} MB in use per 1,000 requests")
        if self.num_objects > WANTED_OBJECTS * thousands:
            told.append(f"{self.num_objects / num_requests:.1f} objects per request")
        counts = {"tasks": self.num_tasks, "threads": self.num_threads, "files": self.num_fds}
        return [*told, *(f"{num} {what}" for what, num in counts.items() if num > WANTED_MORE)]


Census = Mapping[int, Holding]  # by process id


def census(address: str, auth_token: str) -> Census:
    """Every replica of the cluster whose GCS is at `address`, asked by a Ray driver of its own."""
    env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": auth_token}
    command = [sys.executable, "-m", __name__, address]
    told = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    return {int(pid): Holding(**one) for pid, one in json.loads(told.splitlines()[-1]).items()}


def grown(before: Census, after: Census, replicas: Iterable[Replica]) -> dict[str, Holding]:
    """What there is more of, by application: of each figure, the replica's with the most."""
    found: dict[str, Holding] = {}
    for one in replicas:
        if one.pid in before and one.pid in after:
            more = _more(before[one.pid], after[one.pid])
            found[one.app] = _most(found.get(one.app, more), more)
    return dict(sorted(found.items()))


def leaks(grown: Mapping[str, Holding], num_requests: int) -> list[str]:
    """What is too much for so many requests."""
    return [f"{app} keeps {told}" for app, more in grown.items() for told in more.leaks(num_requests)]


def _more(before: Holding, after: Holding) -> Holding:
    return Holding(**{name: value - asdict(before)[name] for name, value in asdict(after).items()})


def _most(one: Holding, other: Holding) -> Holding:
    return Holding(**{it.name: max(getattr(one, it.name), getattr(other, it.name)) for it in fields(Holding)})


def main() -> None:
    ray.init(address=sys.argv[1], namespace="serve", log_to_driver=False)
    try:
        names = [name for name in ray.util.list_named_actors() if name.startswith(ACTOR)]
        asked = [ray.get_actor(name).__ray_call__.remote(count) for name in names]
        print(json.dumps(dict(ray.get(asked, timeout=TIMEOUT_S))))
    finally:
        ray.shutdown()


def count(_: Any) -> tuple[int, dict[str, float]]:
    """Runs in a replica: its process id, and the fields of its `Holding`."""
    for handler in logging.getLogger("ray.serve").handlers:
        handler.flush()  # Serve keeps a thousand records before it writes them
    gc.collect()
    return os.getpid(), {
        "in_use_mb": _num_malloced_bytes() / 2**20,
        "num_objects": sys.getallocatedblocks(),
        "num_tasks": sum(not task.done() for task in list(asyncio.tasks._all_tasks)),  # type: ignore[attr-defined]
        "num_threads": len(os.listdir("/proc/self/task")),
        "num_fds": len(os.listdir("/proc/self/fd")),
    }


def _num_malloced_bytes() -> int:
    """By glibc, in all of its arenas."""
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"

    class Mallinfo(ctypes.Structure):  # in here, for its type cannot travel to a replica
        _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = Mallinfo
    found = libc.mallinfo2()
    return int(found.uordblks + found.hblkhd)


if __name__ == "__main__":
    main()
