"""What `benchmarks.many_experts` serves and draws."""
