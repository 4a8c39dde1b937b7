"""The sections of `benchmarks.learn`. Each is a function that takes a Setting and returns its figures."""
