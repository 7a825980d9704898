"""Experiments: reproductions of published results, grids of settings, and searches with Optuna."""
