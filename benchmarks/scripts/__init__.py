"""Benchmarks shown in the README and docs; each script writes one result file."""
