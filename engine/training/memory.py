"""How the C library hands memory out while a model trains or answers on a CPU."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Large blocks that a step frees stay with the process, and the next step takes them again.

    glibc gives them back to the kernel, which has to clear them anew: that takes a sixth of a CNN's
    training (benchmarks/README.md). Elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, LARGEST)
