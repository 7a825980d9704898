"""Memory of a process: whether an error says that it ran out, and how the C library reuses it."""

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


def is_out_of_memory(error: BaseException) -> bool:
    """However torch, its allocators and compilers put it."""
    words = str(error).lower()
    told = any(each in words for each in ("out of memory", "allocate", "bad_alloc"))
    return isinstance(error, MemoryError) or told
