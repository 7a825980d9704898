"""Exports compiled models for servers: a Triton model repository and its README."""
