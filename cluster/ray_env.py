"""What every Ray node of a cluster is started with, on this machine and in pods.

Set all of these variables in every process, or none: Serve's processes must agree on them.
"""

from __future__ import annotations

OBJECT_STORE_BYTES = 200_000_000  # answers are small messages; weights never pass through the store

RAY_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # HAProxy sends requests directly to the router's replicas. Serve's own proxies, which are in Python, more
    # than doubled the time to first token.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # A HAProxy process that a reload has replaced ends after its last answer, not before.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "86400",
    # If a router dies before it begins to answer a request, another router answers it. HAProxy can send a
    # request again only while all of it fits into its buffer.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
    # A client that reads nothing for this long is gone; its answer would occupy a slot of a model.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
    # How long a stopping router still accepts requests from proxies that do not know yet; all do in a second.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    # Throughput mode sets this only if it is unset. Serve's own proxy takes the requests that come while no
    # router runs; without gRPC it gets answers as streams of Ray objects, nearly twice as slow per message.
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",  # a hung replica finishes nothing and holds a GPU
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.http.header_filter:middlewares",
    # With one malloc arena per thread, memory that one thread frees is not available to the others: unused
    # memory grows over tens of thousands of requests.
    "MALLOC_ARENA_MAX": "2",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # models are local files
    "RAY_worker_niceness": "5",  # models add to it: deployments/apps.py
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # at 0.1 the controller uses a tenth of a small machine
}

# Besides, on every node but the head. Answers do not need the head, but after Ray's own limit of 60 s without
# it, a node would stop all of its replicas.
RAY_WORKER_ENV = {"RAY_gcs_rpc_server_reconnect_timeout_s": "600"}
