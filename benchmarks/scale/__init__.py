"""Parts of `benchmarks.scale`: what grows how with experts, replicas, routers, keys and streams."""
