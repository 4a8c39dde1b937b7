"""What `benchmarks.reference_loop` compares, and with which models."""
