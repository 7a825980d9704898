"""How decoding on the CPU uses many cores: threads of one process, and several processes."""

import multiprocessing
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.gpu_proof.decode_steps import drawn_video
from benchmarks.gpu_proof.step import Context, Step, helper_of_tests

NUM_CLIPS = 192
VIDEOS = (("mpeg4", "240p"), ("h264", "480p"))
THREADS = (1, 2, 3, 4, 8, 16)
PROCESSES = ((4, 4), (8, 2))
"""Processes, and threads of each."""


def cores(context: Context) -> list[dict[str, Any]]:
    """Clips per second of 8 frames, decoded by PyAV and resized, without a loader."""
    rows: list[dict[str, Any]] = []
    num_clips = 4 if context.rehearse else NUM_CLIPS
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for codec, size in VIDEOS[:1] if context.rehearse else VIDEOS:
            path = drawn_video(Path(folder), codec, size, context)
            for threads in THREADS[:2] if context.rehearse else THREADS:
                rows.append({
                    "codec": codec, "size": size, "processes": 1, "threads": threads,
                    "clips_per_s": num_clips / _read(path, num_clips, threads),
                })  # fmt: skip
            for processes, threads in ((2, 1),) if context.rehearse else PROCESSES:
                ready = spawn.Barrier(processes + 1)
                share = -(-num_clips // processes)
                workers = [
                    spawn.Process(target=_read, args=(path, share, threads, ready))
                    for _ in range(processes)
                ]
                for worker in workers:
                    worker.start()
                ready.wait()
                started = time.perf_counter()
                ready.wait()
                seconds = time.perf_counter() - started
                for worker in workers:
                    worker.join()
                rows.append({
                    "codec": codec, "size": size, "processes": processes, "threads": threads,
                    "clips_per_s": processes * share / seconds,
                })  # fmt: skip
    return rows


def _read(path: Path, num_clips: int, threads: int, ready: Any = None) -> float:
    """Seconds to read clips; with `ready`, other processes start and end at the same time."""
    from dali_pipelines.loaders.clip_reader import ClipReader
    from dali_pipelines.loaders.loader_config import LoaderConfig
    from dali_pipelines.spec import ClipSpec

    rows = helper_of_tests("rows").rows_of([path] * num_clips)
    reader = ClipReader(config=LoaderConfig(spec=ClipSpec(num_frames=8), batch_size=8))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda row: reader.read(row, 0), rows[:threads]))
        if ready is not None:
            ready.wait()
        started = time.perf_counter()
        list(pool.map(lambda row: reader.read(row, 0), rows))
        seconds = time.perf_counter() - started
        if ready is not None:
            ready.wait()
    return seconds


STEPS: dict[str, Step] = {"cores": cores}
