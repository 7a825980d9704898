"""Detects out-of-memory errors, and configures how the C library reuses memory."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Make glibc keep freed memory in the process for reuse; does nothing on other systems.

    By default, glibc returns large blocks to the kernel, which clears them again on the next
    allocation. That takes a sixth of the training time of a CNN (benchmarks/README.md).
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, LARGEST)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, its allocators or a compiler means that memory ran out."""
    message = str(error).lower()
    has_phrase = any(phrase in message for phrase in ("out of memory", "allocate", "bad_alloc"))
    return isinstance(error, MemoryError) or has_phrase
