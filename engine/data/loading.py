"""Creates clip loaders by name."""

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
    """`dali` if DALI is installed, otherwise `torch`."""
    return "dali" if importlib.util.find_spec("nvidia.dali") else "torch"


def make_loader(
    name: str,
    rows: Sequence[Sample],
    loader_config: LoaderConfig,
    *,
    gpu: int | None = None,
    cache: "FrameCache | None" = None,
    num_threads: int | None = None,
) -> ClipLoader:
    """Create a loader for `rows`.

    Args:
        name: `dali`, or `torch`: the reference loader, which decodes on the CPU without a cache.
        rows: The samples to load.
        loader_config: Clip geometry, batch size, shuffling and augmentation.
        gpu: Index of the GPU that DALI uses; None for the CPU.
        cache: Cache of decoded frames, for `dali` only.
        num_threads: Threads that decode, or processes of `torch`; None takes one per core.

    Raises:
        UserError: `name` is unknown, DALI isn't installed, or `torch` is used with a cache.
    """
    if name not in get_args(LoaderName):
        raise unknown_name("loader", name, list(get_args(LoaderName)))
    if name == "torch":
        from dali_pipelines.loaders.torch_loader import TorchLoader

        if cache is not None:
            raise UserError(
                "the torch loader has no cache: remove `cache`, or pass `loader='dali'`."
            )
        return TorchLoader(rows, loader_config, num_workers=num_threads)
    if not importlib.util.find_spec("nvidia.dali"):
        raise UserError("DALI isn't installed here: pass `loader='torch'`.")
    from dali_pipelines.loaders.dali_loader import DaliLoader

    return DaliLoader(rows, loader_config, gpu=gpu, cache=cache, num_threads=num_threads)


def open_cache(
    folder: Path | None, *, max_gb: float, log: Callable[[str], None]
) -> "FrameCache | None":
    """The cache of decoded frames in `folder`; None if there is no `folder`."""
    from dali_pipelines.loaders.frame_cache import FrameCache

    try:
        return FrameCache(folder, max_gb=max_gb, log=log) if folder is not None else None
    except SpecError as error:
        raise UserError(f"{error}.") from error
