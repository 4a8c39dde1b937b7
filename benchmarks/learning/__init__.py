"""The sections of `benchmarks.learn`: each is a function of a Setting that returns what it measured."""
