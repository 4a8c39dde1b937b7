"""What `benchmarks.hot_change` is made of: a world to change, clients who watch every answer, a report."""
