"""Decoding on the GPU: right frames first, then speed."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu_proof.step import LAST_LINES, ROOT, Context, Skipped, Step, helper_of_tests

MAX_REAL = 200
SAME_FRAME = 6.0
"""Mean difference of two decoders' pixels, out of 255, up to which it is the same frame."""
SIZES = {"240p": (320, 240), "480p": (640, 480), "1080p": (1920, 1080)}
RATED = (
    ("mpeg4", "240p"), ("h264", "240p"), ("h264", "480p"), ("h264", "1080p"), ("hevc", "1080p"),
    ("vp9", "480p"),
)  # fmt: skip
VIDEOS = {".avi", ".mp4", ".mkv", ".webm", ".mov", ".mpg", ".wmv"}


def codecs(context: Context) -> dict[str, Any]:
    """The frames of a small video of each codec, by each decoder."""
    from engine.commands.info import try_decoders

    return dict(try_decoders(with_gpu=context.gpu is not None))


def frames(context: Context) -> list[dict[str, Any]]:
    """Codecs and containers, B-frames, edit lists, variable rates, packed bitstreams."""
    rows = []
    for name, write in helper_of_tests("odd_videos").FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows += [{**row, "file": name} for row in _compared([write(Path(folder))], context)]
    return rows


def real(context: Context) -> list[dict[str, Any]]:
    """Real videos; only files that differ, and how many there were of each codec."""
    if not context.clips:
        raise Skipped("no real videos were named with --clips")
    paths = [path for folder in context.clips for path in _videos(folder)]
    step = max(1, len(paths) // MAX_REAL)
    return _compared(paths[::step], context)


def rates(context: Context) -> list[dict[str, Any]]:
    """Clips per second of 8 frames by NVDEC and by PyAV, of drawn and of real videos."""
    rows: list[dict[str, Any]] = []
    num_clips = 2 if context.rehearse else 32
    with tempfile.TemporaryDirectory() as folder:
        for codec, size in RATED[:1] if context.rehearse else RATED:
            path = drawn_video(Path(folder), codec, size, context)
            rows += _rated([path] * num_clips, {"codec": codec, "size": size}, context)
    for clips in context.clips:
        real = _videos(clips)
        real *= -(-num_clips // len(real))
        rows += _rated(real, {"clips": clips.name}, context)
    return rows


def drawn_video(folder: Path, codec: str, size: str, context: Context) -> Path:
    """A video of a textured picture that moves."""
    path: Path = helper_of_tests("videos").write_video(
        folder / f"{codec}-{size}", codec=codec, size=SIZES[size],
        frames=20 if context.rehearse else 60, draw=_moving,
    )  # fmt: skip
    return path


def _rated(paths: list[Path], of_row: dict[str, Any], context: Context) -> Iterator[dict[str, Any]]:
    """Rows of the loader with each decoder, and how busy NVDEC was."""
    from benchmarks.harness import interleaved, repeated, summary
    from benchmarks.stages.loader import epoch
    from dali_pipelines.loaders.dali_loader import DaliLoader, Decoder
    from dali_pipelines.loaders.loader_config import LoaderConfig
    from dali_pipelines.spec import ClipSpec

    decoders: tuple[Decoder, ...] = ("pyav",) if context.rehearse else ("dali", "pyav")
    config = LoaderConfig(spec=ClipSpec(num_frames=8), batch_size=8)
    clips = helper_of_tests("rows").rows_of(paths)
    epochs: dict[str, Callable[[], int]] = {}
    for decoder in decoders:
        loader = DaliLoader(clips, config, gpu=context.gpu, decoder=decoder)
        epochs[decoder] = repeated(partial(epoch, loader), context.min_s)
    interleaved(epochs, repeats=1)
    with DecoderUse() as use:
        timed = interleaved(epochs, repeats=1 if context.rehearse else 3)
    for name, each in timed.items():
        yield {**of_row, "busiest_decoder_percent": use.highest, **summary(name, each)}


def _moving(index: int, width: int, height: int) -> Any:
    """A textured picture that moves by two pixels per frame."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    picture = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    return np.roll(picture, 2 * index, axis=1)


def tests(context: Context) -> dict[str, Any]:
    """The tests that are marked `gpu`; without a GPU they are only collected."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("xdist"):
        command += ["-n", "8"]
    if context.rehearse:
        command.append("--collect-only")
    environment = {**os.environ, "REQUIRE_GPU": "1"}
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    return {"exit_code": ran.returncode, "last_lines": ran.stdout.splitlines()[-LAST_LINES:]}


class DecoderUse:
    """How busy NVDEC is within a `with` block, by nvidia-smi once a second."""

    def __enter__(self) -> "DecoderUse":
        command = ["nvidia-smi", "dmon", "-s", "u", "-d", "1"]
        try:
            self._process: subprocess.Popen[str] | None = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError:
            self._process = None
        self.highest: int | None = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        self._process.terminate()
        output = self._process.communicate()[0]
        place = None
        for line in output.splitlines():
            words = line.lstrip("# ").split()
            if "dec" in words:
                place = words.index("dec")
            elif place is not None and "".join(words[place : place + 1]).isdigit():
                self.highest = max(self.highest or 0, int(words[place]))


def _videos(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in VIDEOS]


def _compared(paths: Iterable[Path], context: Context) -> list[dict[str, Any]]:
    """The frames of each file by the decoder of this machine's loader, against PyAV on the CPU."""
    from dali_pipelines.errors import VideoError
    from dali_pipelines.loaders.dali_loader import DaliLoader
    from dali_pipelines.loaders.loader_config import LoaderConfig
    from dali_pipelines.spec import ClipSpec

    rows = []
    for path in paths:
        try:
            (sample,) = helper_of_tests("rows").rows_of([path])
        except VideoError as error:
            rows.append({"file": path.name, "unreadable": str(error)})
            continue
        spec = ClipSpec(num_frames=16, resize=128, crop=112, sampling="equidistant")
        config = LoaderConfig(spec=spec, values="uint8")
        decoder = DaliLoader([sample], config, gpu=context.gpu, decoder="dali")
        one = [batch.clips.float().cpu() for batch in decoder]
        other = [batch.clips.float() for batch in DaliLoader([sample], config, decoder="pyav")]
        row: dict[str, Any] = {
            "file": path.name,
            "codec": sample.codec,
            "read_by": dict(decoder.report.read_by),
            "refused": list(decoder.report.refused.values()),
        }
        if one and other:
            difference = one[0] - other[0]
            difference_T = difference.abs().mean(dim=(0, 2, 3, 4))
            row["mean_difference"] = round(float(difference.mean()), 3)
            row["largest_mean_difference"] = round(float(difference_T.max()), 3)
            row["wrong_frames"] = int((difference_T > SAME_FRAME).sum())
        rows.append(row)
    return rows


STEPS: dict[str, Step] = {
    "codecs": codecs,
    "frames": frames,
    "real": real,
    "rates": rates,
    "tests": tests,
}
