"""Datasets on disk: their index, splits, health and leaks, and a synthetic one to try it all on."""
