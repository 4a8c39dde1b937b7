"""Parts of `benchmarks.reference_loop`: the sequential loop, and the models and questions."""
