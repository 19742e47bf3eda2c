"""Measurements against other people's programs, on the machine at hand; results go to `results/benchmarks`."""
