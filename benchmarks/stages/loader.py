"""Speed of the loaders, from files on disk to batches of tensors, against plain PyTorch.

All loaders load the same clips in one process, in turn, with a warm file cache, after one warm-up
epoch each. The bound is PyAV in as many threads as cores, which decodes up to the last sampled
frame and converts the sampled frames to RGB at their own size, and nothing else. "our decoding
alone" does the same with only the packets that these frames need. The cache starts with an empty
folder in every repeat: its first epoch decodes and writes, the second one reads. Memory and open
files are measured first, after each of 20 epochs.
"""

import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.full_decode import frames_in_turn, to_rgb
from benchmarks.harness import interleaved, summary
from dali_pipelines.augment import Augment
from dali_pipelines.cores import num_cores
from dali_pipelines.decode import clip_file
from dali_pipelines.decode.pixels import Frame
from dali_pipelines.errors import VideoError
from dali_pipelines.frame_plan import IntArray
from dali_pipelines.loaders.dali_loader import DaliLoader
from dali_pipelines.loaders.frame_cache import FrameCache
from dali_pipelines.loaders.loader_config import LoaderConfig, Sample
from dali_pipelines.loaders.torch_loader import TorchLoader
from dali_pipelines.spec import ClipSpec

EPOCHS_FOR_MEMORY = 20
MAX_CACHE_GB = 100.0


def measure(
    rows: list[Sample],
    spec: ClipSpec,
    *,
    batch_size: int,
    repeats: int,
    gpu: int | None,
    on_done: Callable[[], None],
) -> dict[str, Any]:
    """Measure all loaders; `on_done` is called `num_steps(repeats, gpu)` times."""
    loader_config = LoaderConfig(spec=spec, batch_size=batch_size, augment=Augment(), shuffle=True)
    ours = DaliLoader(rows, loader_config)
    memory = _memory(ours, on_done)
    with tempfile.TemporaryDirectory(prefix="engine-cache-") as folder:
        plain = TorchLoader(rows, loader_config)
        epochs = _epochs(rows, loader_config, ours, plain, Path(folder), gpu)
        for run_epoch in epochs.values():
            run_epoch()
            on_done()
        rates = interleaved(epochs, repeats=repeats, on_done=on_done)
    table = [summary(name, rates[name]) for name in epochs]
    by_name = {row["name"]: row["clips_per_s"] for row in table}
    for row in table:
        row["times_plain_torch"] = round(row["clips_per_s"] / by_name["torch"], 2)
        row["share_of_bound"] = round(row["clips_per_s"] / by_name["bound"], 2)
        if row["name"] == "torch" and plain.note:
            row["note"] = plain.note
    return {
        "num_clips": len(rows),
        "batch_size": batch_size,
        "threads": num_cores(),
        "rows": table,
        "ratios": {
            "dali_to_torch": round(by_name["dali"] / by_name["torch"], 2),
            "dali_to_bound": round(by_name["dali"] / by_name["bound"], 2),
            "cached_to_first_epoch": round(by_name["cached epoch"] / by_name["first epoch"], 2),
            "cached_to_dali": round(by_name["cached epoch"] / by_name["dali"], 2),
        },
        "memory": memory,
    }


def num_steps(repeats: int, gpu: int | None) -> int:
    return EPOCHS_FOR_MEMORY + (repeats + 1) * (7 if gpu is None else 10)


def _epochs(
    rows: list[Sample],
    loader_config: LoaderConfig,
    ours: DaliLoader,
    plain: TorchLoader,
    folder: Path,
    gpu: int | None,
) -> dict[str, Callable[[], int]]:
    jittered = LoaderConfig(
        spec=loader_config.spec,
        batch_size=loader_config.batch_size,
        augment=Augment(brightness=0.2, contrast=0.2, saturation=0.2, hue=10),
        shuffle=True,
    )
    cached: list[DaliLoader] = []

    def first_epoch() -> int:
        for entry in folder.iterdir():
            entry.unlink()
        cached[:] = [DaliLoader(rows, loader_config, cache=FrameCache(folder, max_gb=MAX_CACHE_GB))]
        return epoch(cached[0])

    epochs: dict[str, Callable[[], int]] = {
        "bound": partial(_in_threads, _decode_in_order, rows, loader_config),
        "our decoding alone": partial(_in_threads, _decode_needed_packets, rows, loader_config),
        "dali": partial(epoch, ours),
        "torch": partial(epoch, plain),
        "first epoch": first_epoch,
        "cached epoch": lambda: epoch(cached[0]),
        "dali, colors shaken": partial(epoch, DaliLoader(rows, jittered)),
    }
    if gpu is not None:
        epochs["DALI decoding alone"] = partial(decode_by_dali, rows, loader_config, gpu=gpu)
        epochs["dali on GPU"] = partial(epoch, DaliLoader(rows, loader_config, gpu=gpu))
        epochs["dali on GPU, PyAV decodes"] = partial(
            epoch, DaliLoader(rows, loader_config, gpu=gpu, decoder="pyav")
        )
    return epochs


def decode_by_dali(rows: list[Sample], loader_config: LoaderConfig, *, gpu: int | None) -> int:
    """Run DALI's video decoder alone on the sampled frames; returns the number of clips."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(
        batch_size=loader_config.batch_size,
        num_threads=num_cores(),
        device_id=gpu,
        exec_dynamic=True,
        prefetch_queue_depth=1,
    )
    def decode() -> Any:
        encoded = fn.external_source(name="encoded", ndim=1, dtype=types.UINT8)
        numbers = fn.external_source(name="numbers", ndim=1, dtype=types.INT32)
        return fn.decoders.video(encoded, frames=numbers, device="cpu" if gpu is None else "mixed")

    pipeline = decode()
    pipeline.build()
    count = 0
    for start in range(0, len(rows), loader_config.batch_size):
        batch = rows[start : start + loader_config.batch_size]
        pipeline.feed_input("encoded", [np.fromfile(row.path, np.uint8) for row in batch])
        wanted = [
            loader_config.views(row, 0)[0].plan.source_indices.astype(np.int32) for row in batch
        ]
        pipeline.feed_input("numbers", wanted)
        pipeline.schedule_run()
        (frames,) = pipeline.share_outputs()
        count += len(frames)
        pipeline.release_outputs()
    return count


def epoch(loader: Iterable[Any]) -> int:
    """Run an epoch and return the number of clips; waits for the GPU."""
    count = 0
    on_gpu = False
    for batch in loader:
        count += len(batch.ids)
        on_gpu = batch.clips.is_cuda
    if on_gpu:
        import torch

        torch.cuda.synchronize()
    return count


def _in_threads(
    decode: Callable[[Path, IntArray], object], rows: list[Sample], loader_config: LoaderConfig
) -> int:
    def decode_row(row: Sample) -> int:
        wanted = loader_config.views(row, 0)[0].plan.source_indices
        try:
            decode(row.path, wanted)
        except (VideoError, av.FFmpegError):
            return 0
        return 1

    with ThreadPoolExecutor(num_cores()) as pool:
        return sum(pool.map(decode_row, rows))


def _decode_in_order(path: Path, wanted: IntArray) -> list[Frame]:
    if path.is_dir():
        return list(clip_file.read_frames(path, wanted))
    numbers = set(wanted.tolist())
    pixels: list[Frame] = []
    for number, frame in enumerate(frames_in_turn(path)):
        if number in numbers:
            pixels.append(to_rgb(frame))
        if number == wanted[-1]:
            break
    return pixels


def _decode_needed_packets(path: Path, wanted: IntArray) -> list[Frame]:
    return list(clip_file.read_frames(path, wanted))


def _memory(loader: DaliLoader, on_done: Callable[[], None]) -> dict[str, Any]:
    resident, files = [], []
    for _ in range(EPOCHS_FOR_MEMORY):
        epoch(loader)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident.append(round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1))
        files.append(len(list(Path("/proc/self/fd").iterdir())))
        on_done()
    return {
        "resident_mib": resident,
        "open_files": files,
        "growth_after_second_epoch": round(max(resident[2:]) / resident[1] - 1, 3),
    }
