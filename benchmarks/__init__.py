"""Benchmarks behind the project's claims; results are JSON files in benchmarks/results."""
