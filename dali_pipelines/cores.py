"""How many CPU cores this process may use."""

import math
import os
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""As a container sees it: the limits of its own group."""


def num_cores() -> int:
    """Cores in this process's CPU affinity, or fewer if its container may use less time."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota())))


def _quota() -> float:
    """Cores' worth of CPU time that the control group allows, as `docker run --cpus` sets it."""
    with suppress(OSError, ValueError):
        allowed, _, period = (CGROUP / "cpu.max").read_text().partition(" ")
        return float(allowed.replace("max", "inf")) / float(period)
    with suppress(OSError, ValueError):
        allowed = (CGROUP / "cpu/cpu.cfs_quota_us").read_text()
        period = (CGROUP / "cpu/cpu.cfs_period_us").read_text()
        return float(allowed) / float(period) if float(allowed) > 0 else math.inf
    return math.inf
