"""Free ports on this machine."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from cluster.errors import PortTaken


def require_free_port(host: str, port: int) -> None:
    """Raises PortTaken unless a server could listen on the port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTaken(
                f"port {port} on {host} is taken or cannot be used ({error.strerror or error}); "
                "set http.port in cluster.yaml or stop the other program"
            ) from error


def free_ports(num_ports: int) -> list[int]:
    """Different ports that are free now."""
    with ExitStack() as sockets:
        probes = [sockets.enter_context(socket.socket()) for _ in range(num_ports)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
