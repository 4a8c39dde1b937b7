"""The environment of every process of a cluster, on this machine and in pods: half of it is none."""

from __future__ import annotations

RAY_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # HAProxy sends requests straight to the replicas of the router. Through Serve's own proxies, in Python,
    # the first text took more than twice as long.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # One that makes room for another, with other replicas to send to, ends after its last answer, not before.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "86400",
    # What a router had not begun to answer when it died, another one answers, if HAProxy still has all of it.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
    # A client that takes nothing for so long is gone: what waits for it holds a place at a model.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
    # How long a router that stops is there for those who have not heard of it; within a second all have.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    # Throughput mode looks for this before it sets it. Serve's own proxy, which takes what comes while no
    # router runs, would get answers as streams of Ray objects, where a message takes nearly twice as long.
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",  # what hangs finishes nothing, and holds a GPU
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.proxy:middlewares",
    # With an arena of malloc for each thread, what one frees is not there for the others: memory that nobody
    # uses piles up for tens of thousands of requests.
    "MALLOC_ARENA_MAX": "2",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # models come from this machine; nobody else need hear of them
    "RAY_worker_niceness": "5",  # of all processes alike; models make themselves nicer still, see deployments
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # at 0.1 the controller takes a tenth of a small machine
}
