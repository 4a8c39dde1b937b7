"""Parts of `benchmarks.chaos`: a cluster to break, and one module for each kind of fault."""
