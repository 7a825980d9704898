"""Imports timm without Weights & Biases.

timm imports it if it is installed, for a function that we don't call. That takes most of a second,
and leaves folders in TMPDIR if the process is killed.
"""

import sys
from types import ModuleType

TRACKER = "wandb"


def load_timm() -> ModuleType:
    """Import timm, and return it; later imports of its parts need nothing."""
    is_hidden = "timm" not in sys.modules and TRACKER not in sys.modules
    if is_hidden:
        sys.modules[TRACKER] = None  # type: ignore[assignment]  # its import raises ImportError
    try:
        import timm
    finally:
        if is_hidden:
            del sys.modules[TRACKER]
    return timm
