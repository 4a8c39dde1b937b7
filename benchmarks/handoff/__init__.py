"""Parts of `benchmarks.handoff`: applications that write timestamps, and what the timestamps mean."""
