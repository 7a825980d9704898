"""The loader that a command asks for by name."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from dali_pipelines.errors import SpecError
from dali_pipelines.loaders.loader_config import ClipLoader, LoaderConfig, Sample
from engine.errors import UserError, unknown_name

if TYPE_CHECKING:
    from dali_pipelines.loaders.frame_cache import FrameCache

LoaderName = Literal["dali", "torch"]


def default_loader() -> LoaderName:
    return "dali" if importlib.util.find_spec("nvidia.dali") else "torch"


def make_loader(
    name: str,
    rows: Sequence[Sample],
    loader_config: LoaderConfig,
    *,
    gpu: int | None = None,
    cache: "FrameCache | None" = None,
) -> ClipLoader:
    """`torch` is the plain reference; it keeps no cache and decodes on the CPU."""
    if name not in get_args(LoaderName):
        raise unknown_name("loader", name, list(get_args(LoaderName)))
    if name == "torch":
        from dali_pipelines.loaders.torch_loader import TorchLoader

        if cache is not None:
            raise UserError("the torch loader keeps no cache: leave --cache out, or --loader dali.")
        return TorchLoader(rows, loader_config)
    if not importlib.util.find_spec("nvidia.dali"):
        raise UserError("DALI isn't installed here: pass --loader torch.")
    from dali_pipelines.loaders.dali_loader import DaliLoader

    return DaliLoader(rows, loader_config, gpu=gpu, cache=cache)


def open_cache(
    folder: Path | None, *, max_gb: float, log: Callable[[str], None]
) -> "FrameCache | None":
    from dali_pipelines.loaders.frame_cache import FrameCache

    try:
        return FrameCache(folder, max_gb=max_gb, log=log) if folder is not None else None
    except SpecError as error:
        raise UserError(f"{error}.") from error
