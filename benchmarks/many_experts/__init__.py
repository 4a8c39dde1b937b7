"""Parts of `benchmarks.many_experts`: clusters with many experts, and the plot."""
