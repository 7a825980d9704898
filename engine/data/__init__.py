"""Datasets: manifest, splits, integrity check, leakage audit and a synthetic dataset."""
