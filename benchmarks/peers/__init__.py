"""The same model, served by everybody whom `benchmarks.overhead` compares."""
