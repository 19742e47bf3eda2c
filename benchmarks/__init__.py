"""Measurements of speed and memory on this machine: records in `results/benchmarks`, rendered as `results/SPEED.md`."""
