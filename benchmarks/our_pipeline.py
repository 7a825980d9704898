"""Our pipeline from files to labels, as a whole and stage by stage.

The stages: `read`, bytes from disk; `decode`, sampled frames at the model's size, in threads;
`preprocess`, DALI's graph; `model`; `post`, probabilities and the best labels. Each stage is timed
separately with all cores, on the output of the previous one. On a GPU, where DALI decodes,
`decode` is the whole loader and there is no `preprocess`.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.pipeline import ClipAnswer, Setting, labelled
from dali_pipelines.cores import num_cores
from dali_pipelines.decode import frame_folder
from dali_pipelines.errors import VideoError
from dali_pipelines.loaders.clip_reader import ClipReader, ReadClip
from dali_pipelines.loaders.dali_graph import ClipGraph
from dali_pipelines.loaders.loader_config import LoaderConfig, Sample
from engine.data.loading import default_loader, make_loader
from engine.memory import keep_freed_memory
from engine.predictor import open_predictor

STAGE_BATCHES = 4
"""Batches of decoded clips that the later stages are timed on."""
TOP = 5


class Ours:
    def __init__(self, path: Path) -> None:
        self._predictor = open_predictor(path)
        if self._predictor.device.type == "cpu":
            keep_freed_memory()
        self._graph: ClipGraph | None = None
        self.note = ""

    def label(self, rows: list[Sample], setting: Setting) -> Iterator[ClipAnswer]:
        loader_config = self._loader_config(setting)
        if self._predictor.device.type == "cuda":
            self._predictor.warm_up(loader_config.batch_size * loader_config.num_views)
        loader = make_loader(
            default_loader(), rows, loader_config, gpu=self._predictor.device.index
        )
        self.note = loader.note
        return labelled(self._predictor, loader)

    def one(self, row: Sample) -> Any:
        loader_config = self._loader_config(Setting(batch=1))
        if self._graph is None:
            self._graph = self._new_graph(loader_config)
        read = ClipReader(config=loader_config).read(row, 0)
        return _post(self._predictor(self._graph.run(read.sources, read.views)))

    def stages(self, rows: list[Sample], setting: Setting) -> dict[str, Callable[[], int]]:
        """Return each stage as a function that returns the number of processed clips."""
        loader_config = self._loader_config(setting)
        pool = ThreadPoolExecutor(num_cores())
        reader = ClipReader(config=loader_config)
        on_gpu = self._predictor.device.type == "cuda"

        def read() -> int:
            return sum(pool.map(_read_bytes, rows))

        def decode() -> int:
            return sum(isinstance(clip, ReadClip) for clip in pool.map(try_read, rows))

        def try_read(row: Sample) -> ReadClip | VideoError:
            try:
                return reader.read(row, 0)
            except VideoError as error:
                return error

        stages: dict[str, Callable[[], int]] = {"read": read}
        if on_gpu:
            loader = make_loader(
                default_loader(), rows, loader_config, gpu=self._predictor.device.index
            )
            stages["decode"] = lambda: sum(len(set(batch.ids.tolist())) for batch in loader)
            ready = [batch.clips for _, batch in zip(range(STAGE_BATCHES), loader, strict=False)]
        else:
            stages["decode"] = decode
            subset = rows[: STAGE_BATCHES * setting.batch]
            clips = [clip for clip in pool.map(try_read, subset) if isinstance(clip, ReadClip)]
            batches = [
                clips[start : start + setting.batch]
                for start in range(0, len(clips), setting.batch)
            ]
            graph = self._new_graph(loader_config)

            def preprocess() -> int:
                for batch in batches:
                    _preprocess(graph, batch)
                return len(clips)

            stages["preprocess"] = preprocess
            ready = [_preprocess(graph, batch) for batch in batches]
        num_ready = sum(map(len, ready)) // loader_config.num_views
        outputs = [self._predictor(clips) for clips in ready]

        def model() -> int:
            for clips in ready:
                self._predictor(clips)
            if on_gpu:
                torch.cuda.synchronize()
            return num_ready

        def post() -> int:
            for logits in outputs:
                _post(logits)
            return num_ready

        return {**stages, "model": model, "post": post}

    def _new_graph(self, loader_config: LoaderConfig) -> ClipGraph:
        return ClipGraph(
            "pixels",
            loader_config.spec,
            max_views=loader_config.batch_size * loader_config.num_views,
            num_threads=num_cores(),
            gpu=self._predictor.device.index,
            values=loader_config.values,
        )

    def _loader_config(self, setting: Setting) -> LoaderConfig:
        return setting.loader_config(self._predictor.clip, "uint8")


def _read_bytes(row: Sample) -> int:
    files = frame_folder.frame_files(row.path) if row.path.is_dir() else [row.path]
    for file in files:
        file.read_bytes()
    return 1


def _preprocess(graph: ClipGraph, clips: list[ReadClip]) -> Tensor:
    return graph.run(
        [source for clip in clips for source in clip.sources],
        [view for clip in clips for view in clip.views],
    )


def _post(logits: Tensor) -> Any:
    probabilities = logits.double().softmax(dim=1)
    return probabilities.topk(min(TOP, probabilities.shape[1]), dim=1).values.cpu().numpy()
