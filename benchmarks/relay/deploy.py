"""What Serve runs for this benchmark, and a receiver of the traces."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.serving import weightless_deploy_config

NAME = "relayed"
OBSERVED_PREFIX, UNOBSERVED_PREFIX = "/observed", "/unobserved"
SAMPLING_RATIO = 0.01


def deploy_config(folder: Path, step_s: float, span_url: str) -> dict[str, Any]:
    """A cluster with only a meta, which is replaced by the model that takes no time, and three more apps."""
    deploy = weightless_deploy_config(folder, {"name": NAME, "meta": {"model": {"path": "."}}})
    apps = {app["name"]: app for app in deploy["applications"]}
    apps["meta"] |= {"import_path": "benchmarks.relay.instant:build_instant", "args": {"step_s": step_s}}
    apps["meta"]["deployments"][0]["max_ongoing_requests"] = 256
    observing = {
        "tracing": {"endpoint": span_url, "sampling_ratio": SAMPLING_RATIO},
        "decision_log": {"kind": "file", "folder": str(folder / "decisions")},
    }
    deploy["applications"] += [
        _bare(),
        _second_router(apps["router"], UNOBSERVED_PREFIX, {}),
        _second_router(apps["router"], OBSERVED_PREFIX, observing),
    ]
    return deploy


@contextmanager
def span_receiver() -> Iterator[str]:
    """The URL of a server that takes spans by OTLP, and drops them."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _bare() -> dict[str, Any]:
    return {
        "name": "bare",
        "route_prefix": "/bare",
        "import_path": "benchmarks.relay.instant:build_bare",
        "args": {},
        "deployments": [],
    }


def _second_router(router: dict[str, Any], prefix: str, settings: dict[str, Any]) -> dict[str, Any]:
    second = copy.deepcopy(router) | {"name": prefix.removeprefix("/"), "route_prefix": prefix}
    second["deployments"][0]["user_config"] |= settings
    return second


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Not on the terminal."""
