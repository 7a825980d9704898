"""How decoding on the CPU uses many cores: threads of one process, and worker processes."""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.gpu_proof.decode_steps import drawn_video
from benchmarks.gpu_proof.step import Context, Step, helper_of_tests

CLIPS_PER_THREAD, CLIPS_PER_PROCESS = 12, 24
VIDEOS = (("mpeg4", "240p"), ("h264", "480p"))
THREADS = (1, 2, 3, 4, 8, 16)
PROCESSES = (2, 4, 8, 16)


def cores(context: Context) -> list[dict[str, Any]]:
    """Clips per second of 8 frames, decoded by PyAV and resized; and those of the whole loader."""
    rows: list[dict[str, Any]] = []
    videos = VIDEOS[:1] if context.rehearse else VIDEOS
    with tempfile.TemporaryDirectory() as folder:
        for codec, size in videos:
            path = drawn_video(Path(folder), codec, size, context)
            for kind, numbers, clips_per_worker in (
                ("threads", THREADS, CLIPS_PER_THREAD), ("processes", PROCESSES, CLIPS_PER_PROCESS)
            ):  # fmt: skip
                for number in numbers[:2] if context.rehearse else numbers:
                    num_clips = 4 if context.rehearse else clips_per_worker * max(4, number)
                    rate = _rate(path, num_clips, number, by_processes=kind == "processes")
                    rows.append({"codec": codec, "size": size, kind: number, "clips_per_s": rate})
            rows.append({"codec": codec, "size": size, "loader": _loader_rate(path, context)})
    return rows


def _rate(path: Path, num_clips: int, number: int, *, by_processes: bool) -> float:
    from dali_pipelines.loaders.clip_reader import ClipReader
    from dali_pipelines.loaders.decode_processes import DecodeProcesses
    from dali_pipelines.loaders.loader_config import LoaderConfig
    from dali_pipelines.spec import ClipSpec

    rows = helper_of_tests("rows").rows_of([path] * num_clips)
    reader = ClipReader(
        config=LoaderConfig(spec=ClipSpec(num_frames=8), batch_size=8),
        processes=DecodeProcesses(number) if by_processes else None,
    )
    with ThreadPoolExecutor(number) as pool:
        list(pool.map(lambda row: reader.read(row, 0), [*rows, *rows][: 2 * number]))
        started = time.perf_counter()
        list(pool.map(lambda row: reader.read(row, 0), rows))
        return num_clips / (time.perf_counter() - started)


def _loader_rate(path: Path, context: Context) -> float:
    """Of an epoch, after one in which threads, processes and the graph have started."""
    from dali_pipelines.loaders.dali_loader import DaliLoader
    from dali_pipelines.loaders.loader_config import LoaderConfig
    from dali_pipelines.spec import ClipSpec

    num_clips = 4 if context.rehearse else CLIPS_PER_PROCESS * PROCESSES[-1]
    rows = helper_of_tests("rows").rows_of([path] * num_clips)
    config = LoaderConfig(spec=ClipSpec(num_frames=8), batch_size=2 if context.rehearse else 32)
    loader = DaliLoader(rows, config, gpu=context.gpu)
    for _ in range(2):
        started = time.perf_counter()
        num_read = sum(len(batch.clips) for batch in loader)
        seconds = time.perf_counter() - started
    return num_read / seconds


STEPS: dict[str, Step] = {"cores": cores}
