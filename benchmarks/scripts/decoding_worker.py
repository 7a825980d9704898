"""One way to decode, in a process of its own: `python decoding_worker.py CHECKOUT [CORE]`.

`decoding.py` runs this file by its path, so that the packages of any checkout of this project come
first. Questions come as JSON, a line each, and so do the answers. Of the project only decoding and
the loaders are used, which older checkouts have as well.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

SHORT = 128
"""Each frame is resized to this short side, as before a model."""


def main() -> None:
    checkout, *core = sys.argv[1:]
    sys.path[0] = checkout  # in place of this file's folder
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    if core:
        os.sched_setaffinity(0, {int(core[0])})
    served = _Served(Path(checkout), is_pinned=bool(core))
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = getattr(served, question.pop("what"))(**question)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=out, flush=True)


class _Served:
    """What can be asked, by name."""

    def __init__(self, checkout: Path, *, is_pinned: bool) -> None:
        self._checkout = checkout
        self._is_pinned = is_pinned
        self._loader: Iterable[Any] = ()

    def open(self, way: str) -> dict[str, Any]:
        """Imports what the way needs."""
        self._import_ours()
        self._read = _reader(way)
        return {}

    def _import_ours(self) -> None:
        import dali_pipelines

        if not Path(str(dali_pipelines.__file__)).is_relative_to(self._checkout):
            raise RuntimeError(f"{self._checkout.name} holds no dali_pipelines")
        if self._is_pinned:
            import torch

            torch.set_num_threads(1)

    def decode(self, clips: list[tuple[str, list[int]]]) -> dict[str, Any]:
        """Seconds of processor time, over all threads, from files to resized pictures in RGB."""
        from dali_pipelines.decode.pixels import resize_short

        missing, failed = 0, []
        started = time.process_time()
        for path, numbers in clips:
            missing += len(numbers)
            try:
                for _, picture in self._read(Path(path), numbers):
                    resize_short(picture, SHORT)
                    missing -= 1
            except Exception as error:  # each library has its own
                failed.append(f"{type(error).__name__} {error}".splitlines()[0])
        seconds = time.process_time() - started
        return {"seconds": seconds, "missing": missing, "failed": failed}

    def load(self, loader: str, clips: list[tuple[str, int]], batch_size: int) -> dict[str, Any]:
        """Makes a loader of clips with their numbers of frames."""
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


def _reader(way: str) -> "Callable[[Path, list[int]], Iterable[tuple[int, Any]]]":
    if way == "ours":
        return _ours
    from benchmarks.baselines.frame_readers import READERS, lacks

    if reason := lacks(READERS[way]):
        raise RuntimeError(reason)
    return READERS[way].read


def _ours(path: Path, numbers: list[int]) -> "Iterator[tuple[int, Any]]":
    import numpy as np

    from dali_pipelines.decode.pixels import to_pixels
    from dali_pipelines.decode.wanted_frames import decode_wanted

    for item in decode_wanted(path, np.array(numbers)):
        yield item.number, to_pixels(item.frame)


if __name__ == "__main__":
    main()
