"""A module to a fast callable: compilers, artifacts, parity. Knows nothing of video or the task."""
