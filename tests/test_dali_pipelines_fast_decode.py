"""Fast decoding against exact decoding: the same frames in the same order, at the same size."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import videos
from odd_videos import FILES
from rows import rows_of

from dali_pipelines.decode import clip_file, indexed_video
from dali_pipelines.decode.fast_decode import FastDecode, num_halvings
from dali_pipelines.decode.pixels import decode_resized, to_pixels, to_resized_pixels
from dali_pipelines.decode.wanted_frames import DecodedFrame, decode_wanted
from dali_pipelines.errors import SpecError
from dali_pipelines.loaders.dali_loader import DaliLoader
from dali_pipelines.loaders.frame_cache import FrameCache
from dali_pipelines.loaders.loader_config import LoaderConfig
from dali_pipelines.loaders.window_loader import WindowLoader
from dali_pipelines.spec import ClipSpec

FAST = FastDecode(("h264", "mjpeg"), 32)
SPEC = ClipSpec(num_frames=4, resize=32, crop=32)
FAST_SPEC = ClipSpec(num_frames=4, resize=32, crop=32, fast_decode=("h264", "mjpeg"))


def decoded(path: Path, wanted: Any, fast: FastDecode | None, short: int = 32) -> Any:
    found = list(decode_wanted(path, np.array(wanted), fast=fast))
    return found, [to_resized_pixels(item, short) for item in found]


def numbers_in(items: list[DecodedFrame]) -> list[int]:
    return [videos.number_of(to_pixels(item.frame)) for item in items]


def is_sped_up(name: str) -> bool:
    of_h264 = ("no time", "time stamps", "variable", "edit list", "340", "interlaced", "turned")
    return name in ("h264", "mjpeg") or name.startswith(of_h264)


@pytest.mark.parametrize("name", FILES)
def test_the_same_frames_come_in_the_same_order(name: str, tmp_path: Path) -> None:
    path = FILES[name](tmp_path)
    num_frames = clip_file.probe(path).frames
    for wanted in (list(range(num_frames)), [3, 4, 17], [num_frames - 1]):
        exact, expected = decoded(path, wanted, None)
        fast, found = decoded(path, wanted, FAST)
        assert [item.number for item in fast] == wanted
        assert not any(item.is_damaged for item in fast)
        for one, other in zip(expected, found, strict=True):
            assert one.shape == other.shape
            if is_sped_up(name):
                assert np.abs(one.astype(int) - other).mean() < 8
            else:
                np.testing.assert_array_equal(one, other)
        if name != "turned":
            assert numbers_in(fast) == numbers_in(exact)


@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
def test_large_files_are_read_again_and_not_kept(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = videos.write_video(tmp_path / "clip", codec=codec, frames=60)
    kept = decoded(path, [3, 17, 59], FAST)[1]
    monkeypatch.setattr(indexed_video, "KEEP_BELOW", 0)
    fast, found = decoded(path, [3, 17, 59], FAST)
    assert numbers_in(fast) == [3, 17, 59]
    np.testing.assert_array_equal(found, kept)


@pytest.mark.parametrize("size", [(640, 480), (341, 257), (323, 130), (129, 385), (64, 64)])
def test_reduced_frames_get_the_size_of_exact_ones(size: tuple[int, int], tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", codec="mjpeg", frames=20, size=size)
    halvings = num_halvings(*size, 32)
    fast, found = decoded(path, range(20), FAST)
    exact, expected = decoded(path, range(20), None)
    assert {(item.frame.width, item.frame.height) for item in fast} == {
        (-(-size[0] >> halvings), -(-size[1] >> halvings))
    }
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        assert one.shape == other.shape
        assert videos.number_of(other) == number
        assert np.abs(one.astype(int) - other).mean() < 8
    assert all(item.full_size is None for item in exact)


@pytest.mark.parametrize(
    ("size", "short", "halvings"),
    [((640, 480), 240, 1), ((640, 480), 241, 0), ((640, 480), 120, 2), ((480, 640), 121, 1),
     ((4096, 4096), 64, 3), ((100, 60), 224, 0)],
)  # fmt: skip
def test_frames_are_never_smaller_than_the_target(
    size: tuple[int, int], short: int, halvings: int
) -> None:
    assert num_halvings(*size, short) == halvings


def test_turned_frames_are_reduced_and_turned(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "turned.mov", codec="mjpeg", frames=9, size=(322, 250))
    videos.turn_clockwise(path)
    _, expected = decoded(path, range(9), None)
    fast, found = decoded(path, range(9), FAST)
    assert (fast[0].frame.width, fast[0].frame.height) == (81, 63)
    for one, other in zip(expected, found, strict=True):
        assert one.shape == other.shape
        assert one.shape[0] > one.shape[1]
        assert np.abs(one.astype(int) - other).mean() < 6


def test_only_other_frames_than_keyframes_of_h264_change(tmp_path: Path) -> None:
    path = videos.write_video(
        tmp_path / "clip", codec="h264", frames=30, gop=10, size=(320, 240), draw=videos.moving(0)
    )
    exact = list(decode_wanted(path, np.arange(30)))
    fast = list(decode_wanted(path, np.arange(30), fast=FAST))
    same = [
        videos.planes_of(one.frame) == videos.planes_of(other.frame)
        for one, other in zip(exact, fast, strict=True)
    ]
    assert [same[number] for number in (0, 10, 20)] == [True] * 3
    assert not all(same)


def test_codecs_that_are_not_admitted_decode_exactly(tmp_path: Path) -> None:
    for codec, other in (("h264", "mjpeg"), ("mjpeg", "h264")):
        path = videos.write_video(tmp_path / codec, codec=codec, size=(320, 240))
        _, expected = decoded(path, range(30), None)
        _, found = decoded(path, range(30), FastDecode((other,), 32))  # type: ignore[arg-type]
        np.testing.assert_array_equal(expected, found)


def test_a_size_that_does_not_follow_from_the_header_is_decoded_exactly(tmp_path: Path) -> None:
    """From frame 20 on, frames are twice as large."""
    parts = [
        videos.write_video(tmp_path / name, codec="mjpeg", frames=20, size=size)
        for name, size in (("one", (160, 120)), ("two", (320, 240)))
    ]
    path = tmp_path / "both.avi"
    with av.open(str(parts[0])) as source, av.open(str(path), "w") as output:
        copy: Any = output.add_stream_from_template(source.streams.video[0])
        with av.open(str(parts[1])) as other:
            packets = [packet for each in (source, other) for packet in each.demux(video=0)]
            for number, packet in enumerate(packet for packet in packets if packet.size):
                single = av.Packet(bytes(packet))
                single.stream, single.time_base = copy, Fraction(1, 30)
                single.pts = single.dts = number
                single.is_keyframe = True
                output.mux(single)
    _, expected = decoded(path, range(40), None)
    fast, found = decoded(path, range(40), FAST)
    assert [item.frame.width for item in fast] == [80] * 20 + [320] * 20
    assert numbers_in(fast) == [*range(20), *range(20)]
    assert {frame.shape for frame in found} == {frame.shape for frame in expected}
    np.testing.assert_array_equal(expected[20:], found[20:])


@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
def test_damaged_frames_are_the_same_ones(codec: str, tmp_path: Path) -> None:
    path = videos.write_video(
        tmp_path / "clip", codec=codec, frames=60, gop=15, size=(320, 240), draw=videos.noisy
    )
    if codec == "h264":
        videos.damage(path, 18, 26)
    else:
        data = bytearray(path.read_bytes())
        starts = [at for at in range(len(data) - 3) if data[at : at + 3] == b"\xff\xd8\xff"]
        data[starts[20] : starts[21] - 8] = bytes(starts[21] - 8 - starts[20])
        path.write_bytes(data)
    exact, _ = decoded(path, range(60), None)
    fast, _ = decoded(path, range(60), FAST)
    marks = [item.is_damaged for item in exact]
    assert any(marks)
    assert [item.is_damaged for item in fast] == marks


def test_the_spec_names_the_codecs_and_is_exact_without_them() -> None:
    assert FastDecode.of(SPEC) is None
    assert "fast_decode" not in SPEC.to_dict()
    assert ClipSpec.from_dict(SPEC.to_dict()) == SPEC
    plain = {**FAST_SPEC.to_dict(), "fast_decode": ["h264", "mjpeg"]}  # as JSON gives it
    assert ClipSpec.from_dict(plain) == FAST_SPEC
    assert FastDecode.of(FAST_SPEC) == FAST
    with pytest.raises(SpecError, match="fast_decode must be a list, each one of h264, mjpeg"):
        ClipSpec.from_dict({"fast_decode": ["mpeg4"]})


@pytest.mark.parametrize("num_threads", [1, 5])
def test_the_loaders_decode_as_their_spec_says(num_threads: int, tmp_path: Path) -> None:
    """With five threads, files are decoded in processes."""
    paths = [
        videos.write_video(tmp_path / codec, codec=codec, size=(160, 120), draw=videos.moving(1))
        for codec in ("mpeg4", "h264", "mjpeg")
    ]
    cache = FrameCache(tmp_path / "cache", max_gb=1)
    clips = {}
    for spec in (SPEC, FAST_SPEC):
        config = LoaderConfig(spec=spec, values="uint8")
        loader = DaliLoader(rows_of(paths), config, num_threads=num_threads, cache=cache)
        [batch] = loader
        windows = WindowLoader(paths, spec, num_threads=num_threads, values="uint8")
        [of_windows] = windows
        assert of_windows.clips.equal(batch.clips)
        clips[spec] = batch.clips
    changed = (clips[SPEC] != clips[FAST_SPEC]).flatten(1).any(dim=1)
    assert changed.tolist() == [False, True, True]
    again = DaliLoader(rows_of(paths), LoaderConfig(spec=SPEC, values="uint8"), cache=cache)
    assert next(iter(again)).clips.equal(clips[SPEC])
    assert again.report.read_by == {"the cache": 3}


def test_a_clip_is_decoded_fast_in_one_call(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", codec="mjpeg", size=(320, 240))
    exact, _ = decode_resized(path, np.arange(4), 32)
    fast, num_damaged = decode_resized(path, np.arange(4), 32, FAST)
    assert not num_damaged
    assert [frame.shape for frame in fast] == [frame.shape for frame in exact]
    assert not np.array_equal(fast, exact)
