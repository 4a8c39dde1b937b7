"""What `benchmarks.handoff` serves and reads."""
