"""What `benchmarks.relay` serves and asks."""
