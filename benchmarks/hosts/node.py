"""How Ray is started on each host, as the documentation does it for several nodes."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from benchmarks.hosts.switch import call
from cluster.ray_env import RAY_ENV

EXPERT = "writer"
GCS_PORT, DASHBOARD_PORT = 6379, 8265
ADDRESSES = {
    "head": "10.77.0.10",
    "front": "10.77.0.11",
    "mid": "10.77.0.12",
    "meta": "10.77.0.13",
    "expert": "10.77.0.14",
}
# Each resource is room for one replica, so both replicas of an application are never on one host.
OFFERS = {
    "front": {"router": 1},
    "mid": {"router": 1, "meta": 1, EXPERT: 1},
    "meta": {"meta": 1},
    "expert": {EXPERT: 1},
}
OBJECT_STORE_BYTES = 100_000_000
CLOCK_SOURCE = Path(__file__).with_name("clock.c")
CLOCK_FILE = Path("/tmp/clock")  # how many seconds to add to the time of day


def environment(installation: Path, *, own_clocks: bool = False) -> dict[str, str]:
    """`own_clocks`: every host reads how wrong its clock is from a file of its own."""
    return {
        **RAY_ENV,
        "PATH": f"{installation}/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/tmp/home",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(installation / "bin" / "etr-haproxy"),
        **(_own_clocks(installation) if own_clocks else {}),
    }


def ray_command(installation: Path, name: str) -> list[str]:
    """How the documentation starts Ray on several nodes."""
    options: dict[str, Any] = {
        "--node-ip-address": ADDRESSES[name],
        "--temp-dir": "/tmp/ray",
        "--object-store-memory": OBJECT_STORE_BYTES,
        "--include-log-monitor": False,
        "--num-cpus": 2 if name in OFFERS else 0,
        "--resources": json.dumps(OFFERS.get(name, {})),
    }
    if name == "head":
        options |= {"--port": GCS_PORT, "--dashboard-host": "0.0.0.0", "--dashboard-port": DASHBOARD_PORT}
    else:
        options |= {"--address": f"{ADDRESSES['head']}:{GCS_PORT}"}
    flags = [str(part) for option in options.items() for part in option]
    command = [f"{installation}/bin/python", "-P", "-m", "ray.scripts.scripts", "start"]
    return [*command, *(["--head"] if name == "head" else []), "--block", "--disable-usage-stats", *flags]


def _own_clocks(installation: Path) -> dict[str, str]:
    """Raises RuntimeError if there is no C compiler, or it fails."""
    library = installation / "lib" / "clock.so"
    call("cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(CLOCK_SOURCE), "-ldl")
    return {"LD_PRELOAD": str(library), "ETR_CLOCK": str(CLOCK_FILE)}
