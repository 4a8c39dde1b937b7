"""What `benchmarks.gpu` measures, each part in a process of its own, so that it has the whole device."""
