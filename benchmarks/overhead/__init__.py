"""The servers that `benchmarks.overhead` compares, all with the same model."""
