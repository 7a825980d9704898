"""How many CPU cores this process may use."""

import os


def num_cores() -> int:
    """Number of cores in this process's CPU affinity; may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
