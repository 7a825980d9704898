"""The loader that a command asks for by name."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from dali_pipelines.errors import SpecError
from dali_pipelines.feed import ClipLoader, ClipRow, Feed
from engine.errors import UserError, unknown_name

LoaderName = Literal["dali", "torch"]


def default_loader() -> LoaderName:
    return "dali" if importlib.util.find_spec("nvidia.dali") else "torch"


def make_loader(
    name: str,
    rows: Sequence[ClipRow],
    feed: Feed,
    *,
    gpu: int | None = None,
    cache: Path | None = None,
    cache_gb: float = 20.0,
) -> ClipLoader:
    """`torch` is the plain reference; it keeps no cache and decodes on the CPU."""
    if name not in get_args(LoaderName):
        raise unknown_name("loader", name, list(get_args(LoaderName)))
    if name == "torch":
        from dali_pipelines.torch_loader import TorchLoader

        if cache is not None:
            raise UserError("the torch loader keeps no cache: leave --cache out, or --loader dali.")
        return TorchLoader(rows, feed)
    if not importlib.util.find_spec("nvidia.dali"):
        raise UserError("DALI isn't installed here: pass --loader torch.")
    from dali_pipelines.frame_cache import FrameCache
    from dali_pipelines.loader import DaliLoader

    try:
        frames = FrameCache(cache, max_gb=cache_gb) if cache is not None else None
    except SpecError as error:
        raise UserError(f"{error}.") from error
    return DaliLoader(rows, feed, gpu=gpu, cache=frames)
