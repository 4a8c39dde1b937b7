"""Parts of `benchmarks.hot_change`: a cluster to change, clients that check every answer, a report."""
