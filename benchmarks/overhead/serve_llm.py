"""`ray.serve.llm` on its own Ray head, with Serve's default settings or its fast ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.overhead.model import ENGINE_ENV, NAME, Model
from cluster.local.head import start_head, stop_head
from cluster.local.ports import free_ports
from cluster.polling import until
from cluster.serve.connect import connect_to
from cluster.serve.serve_details import FAILED, RUNNING, ServeDetails

START_TIMEOUT_S = 300.0
# The defaults of the variables that `start_head` sets for our clusters.
SERVE_DEFAULTS = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
    "RAY_SERVE_PROXY_USE_GRPC": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "",
    "RAY_worker_niceness": "15",
}
# What Serve's documentation offers for throughput: HAProxy, and gRPC within one event loop.
SERVE_FAST = SERVE_DEFAULTS | {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_PROXY_USE_GRPC": "1",
}


@contextmanager
def serve_llm(model: Model, folder: Path, settings: Mapping[str, str]) -> Iterator[str]:
    """Yields the URL."""
    (port,) = free_ports(1)
    head = start_head(folder / "state", num_cpus=8, env={**ENGINE_ENV, **settings})
    try:
        with connect_to(head) as client:
            client.put(_deploy_config(model, port))
            if not until(lambda: _is_up(client.details()), START_TIMEOUT_S, 1.0):
                raise TimeoutError(f"ray.serve.llm is not up: {client.details()}")
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_head(folder / "state")


def _deploy_config(model: Model, port: int) -> dict[str, Any]:
    scaling = {"min_replicas": 1, "max_replicas": 1}
    llm = {
        "model_loading_config": {"model_id": NAME, "model_source": str(model.folder)},
        "engine_kwargs": model.engine_args,
        "placement_group_config": {"bundles": [{"CPU": 1}]},
        "deployment_config": {"autoscaling_config": scaling, "max_ongoing_requests": 2 * model.max_streams},
    }
    app = {
        "name": "llm",
        "route_prefix": "/",
        "import_path": "ray.serve.llm:build_openai_app",
        "args": {"llm_configs": [llm]},
    }
    return {"http_options": {"host": "127.0.0.1", "port": port}, "applications": [app]}


def _is_up(details: ServeDetails) -> bool:
    apps = details.applications.values()
    failed = [app.message for app in apps if app.status == FAILED]
    if failed:
        raise RuntimeError(failed[0])
    return bool(apps) and all(app.status == RUNNING for app in apps)
