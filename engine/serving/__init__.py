"""Compiled models as other servers take them: a Triton model repository and its README."""
