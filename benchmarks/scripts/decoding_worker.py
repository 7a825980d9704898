"""Worker process of `decoding.py`: `python decoding_worker.py CHECKOUT [CORE]`.

`decoding.py` runs this file by its path, so that the packages of the given checkout are imported.
Requests and answers are lines of JSON. Of this project, only decoding and the loaders are used,
which older checkouts have as well.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

SHORT = 128
"""Frames are resized to this short side, as for a model."""


def main() -> None:
    checkout, *core = sys.argv[1:]
    sys.path[0] = checkout  # replaces the folder of this file
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep output of libraries out of the answers
    if core:
        os.sched_setaffinity(0, {int(core[0])})
    commands = _Commands(Path(checkout), is_pinned=bool(core))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(commands, request.pop("what"))(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=out, flush=True)


class _Commands:
    """Commands of the worker, called by name."""

    def __init__(self, checkout: Path, *, is_pinned: bool) -> None:
        self._checkout = checkout
        self._is_pinned = is_pinned
        self._loader: Iterable[Any] = ()

    def open(self, reader: str) -> dict[str, Any]:
        """Import the library of a reader."""
        self._import_ours()
        self._read = _reader(reader)
        return {}

    def _import_ours(self) -> None:
        import dali_pipelines

        if not Path(str(dali_pipelines.__file__)).is_relative_to(self._checkout):
            raise RuntimeError(f"{self._checkout.name} has no dali_pipelines")
        if self._is_pinned:
            import torch

            torch.set_num_threads(1)

    def decode(self, clips: list[tuple[str, list[int]]]) -> dict[str, Any]:
        """Measure processor time of all threads, from files to resized RGB frames."""
        from dali_pipelines.decode.pixels import resize_short

        missing, failed = 0, []
        started = time.process_time()
        for path, numbers in clips:
            missing += len(numbers)
            try:
                for _, picture in self._read(Path(path), numbers):
                    resize_short(picture, SHORT)
                    missing -= 1
            except Exception as error:  # each library has its own exceptions
                failed.append(f"{type(error).__name__} {error}".splitlines()[0])
        seconds = time.process_time() - started
        return {"seconds": seconds, "missing": missing, "failed": failed}

    def load(self, loader: str, clips: list[tuple[str, int]], batch_size: int) -> dict[str, Any]:
        """Make a loader of clips, given as paths with numbers of frames."""
        self._import_ours()
        from dali_pipelines.decode import clip_file
        from dali_pipelines.loaders.dali_loader import DaliLoader
        from dali_pipelines.loaders.loader_config import LoaderConfig, Sample
        from dali_pipelines.loaders.torch_loader import TorchLoader
        from dali_pipelines.spec import ClipSpec

        rows = []
        for number, (path, num_frames) in enumerate(clips):
            facts = clip_file.probe(Path(path))
            rows.append(
                Sample(
                    id=number, path=Path(path), label=0, frames=num_frames, fps=facts.fps,
                    width=facts.width, height=facts.height, codec=facts.codec,
                )
            )  # fmt: skip
        loaders: dict[str, Any] = {"dali": DaliLoader, "torch": TorchLoader}
        self._loader = loaders[loader](rows, LoaderConfig(spec=ClipSpec(), batch_size=batch_size))
        return {}

    def epoch(self) -> dict[str, Any]:
        started = time.perf_counter()
        count = sum(len(batch.ids) for batch in self._loader)
        return {"seconds": time.perf_counter() - started, "num_clips": count}


def _reader(name: str) -> "Callable[[Path, list[int]], Iterable[tuple[int, Any]]]":
    if name == "ours":
        return _ours
    from benchmarks.baselines.frame_readers import READERS, lacks

    if reason := lacks(READERS[name]):
        raise RuntimeError(reason)
    return READERS[name].read


def _ours(path: Path, numbers: list[int]) -> "Iterator[tuple[int, Any]]":
    import numpy as np

    from dali_pipelines.decode.pixels import to_pixels
    from dali_pipelines.decode.wanted_frames import decode_wanted

    for item in decode_wanted(path, np.array(numbers)):
        yield item.number, to_pixels(item.frame)


if __name__ == "__main__":
    main()
