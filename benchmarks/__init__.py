"""Measures everything the project claims; results are kept as JSON in benchmarks/results."""
