"""What `benchmarks.chaos` is made of: a world to break, and one file for each kind of fault."""
