"""What others made costs no memory and no time that it only claims, and a stalled decode ends."""

import io
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import bombs
import numpy as np
import pytest
import videos

from dali_pipelines.decode import clip_file
from dali_pipelines.errors import VideoError
from dali_pipelines.loaders.dali_loader import DaliLoader
from dali_pipelines.loaders.frame_cache import FrameCache
from dali_pipelines.loaders.loader_config import LoaderConfig, Sample
from dali_pipelines.loaders.torch_loader import TorchLoader
from dali_pipelines.loaders.window_loader import WindowLoader
from dali_pipelines.loaders.windows import plan_windows
from dali_pipelines.spec import ClipSpec
from engine.data import manifest
from engine.errors import UserError

SMALL = ClipSpec(num_frames=4, resize=72, crop=64)


def peak_of(code: str, *words: object) -> tuple[int, str]:
    """MiB that a process took beyond what its libraries take, and what it said."""
    begin = (
        "import resource, sys; from pathlib import Path; import numpy as np\n"
        "from dali_pipelines.decode import clip_file\n"
        "from dali_pipelines.errors import VideoError\n"
        "from dali_pipelines.loaders.windows import plan_windows\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "path = Path(sys.argv[1])\n"
    )
    end = "\nprint((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    result = subprocess.run(
        [sys.executable, "-c", begin + code + end, *map(str, words)],
        capture_output=True, text=True, check=True, timeout=900,
    )  # fmt: skip
    said, _, peak = result.stdout.strip().rpartition("\n")
    return int(peak), said


REFUSED = """
for read in (clip_file.probe, lambda path: clip_file.read_frames(path, np.array([0]))):
    try:
        read(path)
        print('READ')
    except VideoError as error:
        print(error.reason)
print(clip_file.check(path).reason)
"""


def _huge_avi(folder: Path) -> Path:
    path = videos.write_video(folder / "huge.avi", codec="mjpeg", frames=4)
    data = bytearray(path.read_bytes())
    place = data.index(b"strf") + 8
    data[place + 4 : place + 12] = struct.pack("<2i", 60000, 60000)
    path.write_bytes(data)
    return path


def _huge_mp4(folder: Path) -> Path:
    path = videos.write_video(folder / "huge.mp4", codec="mpeg4", frames=4)
    data = bytearray(path.read_bytes())
    place = data.index(b"mp4v") + 4 + 24
    data[place : place + 4] = struct.pack(">2H", 60000, 60000)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("make", [bombs.write_huge_y4m, bombs.write_huge_mjpeg])
def test_a_video_that_claims_an_absurd_size_is_refused_before_memory_is_taken(
    make: Any, tmp_path: Path
) -> None:
    peak, said = peak_of(REFUSED, make(tmp_path))
    assert "READ" not in said
    assert peak < 100


@pytest.mark.parametrize("make", [_huge_avi, _huge_mp4])
def test_a_size_that_only_the_container_claims_costs_nothing(make: Any, tmp_path: Path) -> None:
    """The pictures state their size themselves, and that is what counts."""
    peak, said = peak_of(REFUSED, make(tmp_path))
    assert said.splitlines()[:2] == ["READ", "READ"]
    assert peak < 100


def png(width: int, height: int) -> bytes:
    """A header and next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def jpeg(width: int, height: int) -> bytes:
    from PIL import Image

    whole = io.BytesIO()
    Image.fromarray(videos.numbered(1, 64, 48)).save(whole, "JPEG")
    size = struct.pack(">2H", height, width)
    return re.sub(rb"(\xff\xc0\x00\x11\x08).{4}", lambda found: found[1] + size, whole.getvalue())


@pytest.mark.parametrize(("suffix", "make"), [(".png", png), (".jpg", jpeg)])
@pytest.mark.parametrize("side", [15000, 60000])
def test_an_extracted_frame_of_absurd_size_is_refused_by_all_who_read_it(
    suffix: str, make: Any, side: int, tmp_path: Path
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(4):
        (folder / f"f_{number}{suffix}").write_bytes(make(side, side))
    for read in (clip_file.probe, lambda path: clip_file.read_frames(path, np.array([0]))):
        with pytest.raises(VideoError, match="image is too large"):
            read(folder)
    assert "image is too large" in clip_file.check(folder).reason
    row = Sample(id=0, path=folder, label=0, frames=4, codec="png")
    for loader in (
        DaliLoader([row], LoaderConfig(spec=SMALL)),
        TorchLoader([row], LoaderConfig(spec=SMALL)),
    ):
        assert not list(loader)
        (reason,) = loader.report.failures.values()
        assert "image is too large" in reason


def test_a_frame_that_is_a_pipe_is_no_frame(tmp_path: Path) -> None:
    """Reading it would wait for ever."""
    os.mkfifo(tmp_path / "frame_1.jpg")
    with pytest.raises(VideoError, match="it is not a file"):
        clip_file.probe(tmp_path)
    row = Sample(id=0, path=tmp_path, label=0, frames=1, codec="jpeg")
    loader = DaliLoader([row], LoaderConfig(spec=SMALL))
    assert not list(loader)
    assert loader.report.failures == {tmp_path: "frame_1.jpg: it is not a file"}


def test_a_video_that_claims_to_last_for_years_is_refused(tmp_path: Path) -> None:
    path = videos.write_video(
        tmp_path / "years.mkv", codec="h264", frames=3, pts=[0, 1000, 2_000_000_000]
    )
    code = "try: plan_windows(path, window_s=1)\nexcept VideoError as error: print(error)"
    peak, said = peak_of(code, path)
    assert "claims to last 4,000,000 s" in said or "claims to last" in said
    assert peak < 100


def test_few_frames_far_apart_make_no_window_behind_the_end(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "slow.mkv", codec="h264", frames=3, pts=[0, 3000, 6000])
    windows = plan_windows(path, window_s=0.3, stride_s=0.2)
    assert all(window.start_s < window.end_s <= 9.001 for window in windows)


@pytest.mark.parametrize(
    ("column", "value"),
    [("frames", 10**30), ("frames", 10**12), ("fps", "1e300"), ("fps", 10**9), ("width", 10**18)],
)
def test_a_manifest_that_claims_what_cant_be_is_refused(
    column: str, value: Any, tmp_path: Path
) -> None:
    facts: dict[str, Any] = {"frames": 9, "fps": 30, "width": 2, "height": 2, column: value}
    (tmp_path / "manifest.csv").write_text(
        f"{','.join(manifest.COLUMNS)}\na.avi,run,s,,"
        f"{facts['frames']},{facts['fps']},{facts['width']},{facts['height']},h264\n"
    )
    with pytest.raises(UserError, match=r"line 2: .* impossibly large"):
        manifest.load(tmp_path)


@pytest.mark.parametrize("field", [0, 1, 2])
def test_a_cache_entry_that_claims_absurd_counts_is_dropped(field: int, tmp_path: Path) -> None:
    """The header holds the number of frames, their height and their width."""
    path = videos.write_video(tmp_path / "clip", frames=4)
    cache = FrameCache(tmp_path / "cache", max_gb=1)
    for claim in (1 << 30, 1 << 40, (1 << 62) + 1, -1):
        cache.put(path, 72, [0], [np.zeros((72, 96, 3), np.uint8)])
        (entry,) = cache.folder.iterdir()
        data = bytearray(entry.read_bytes())
        struct.pack_into("<q", data, 16 + 8 * field, claim)
        entry.write_bytes(data)
        fresh = FrameCache(tmp_path / "cache", max_gb=1)
        assert fresh.get(path, 72, [0]) is None
        fresh.put(path, 72, [0], [np.ones((72, 96, 3), np.uint8)])
        assert fresh.get(path, 72, [0]) is not None


# A decode that stalls


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bombs.write_endless(tmp_path_factory.mktemp("endless"))


@pytest.mark.slow
def test_a_decode_that_takes_too_long_is_given_up_and_the_rest_goes_on(
    endless: Path, tmp_path: Path
) -> None:
    sound = videos.write_video(tmp_path / "sound", frames=30)
    facts = clip_file.probe(endless)
    assert facts.frames > 10_000
    rows = [
        Sample(id=0, path=endless, label=0, frames=facts.frames, fps=25),
        Sample(id=1, path=sound, label=1, frames=30, fps=30),
    ]
    loader = DaliLoader(rows, LoaderConfig(spec=SMALL, batch_size=1), timeout_s=2, num_threads=1)
    assert [batch.ids.tolist() for batch in loader] == [[1]]
    assert loader.report.failures == {endless: "it gave no frames for 2 s"}
    labelling = WindowLoader([endless, sound], SMALL, timeout_s=2)
    assert [window.path for batch in labelling for window in batch.windows] == [sound]
    assert labelling.report.failures == {endless: "it gave no frame for 2 s"}
