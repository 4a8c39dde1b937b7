"""Parts of `benchmarks.relay`: a model that answers in no time, a bare Serve app, a fast client."""
