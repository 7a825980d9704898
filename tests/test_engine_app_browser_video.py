"""What browsers get to play: the file itself where they can, else a small conversion of it."""

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import videos

from dali_pipelines.errors import VideoError
from dali_pipelines.loaders.windows import plan_windows
from engine.app import browser_video
from engine.app.browser_video import convert, mime_of


def decoded(data: bytes) -> tuple[Any, list[tuple[float, Any]]]:
    with av.open(io.BytesIO(data)) as container:
        frames = [
            (frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)
        ]
        return container.streams.video[0].codec_context, frames


def silent(second: float) -> None:
    pass


def test_only_what_every_browser_plays_is_left_as_it_is(tmp_path: Path) -> None:
    kinds = {
        codec: mime_of(videos.write_video(tmp_path / codec, codec=codec))
        for codec in ("h264", "vp8", "vp9", "mpeg4", "hevc", "wmv2", "mpeg2video", "mjpeg")
    }
    assert {codec: mime for codec, mime in kinds.items() if mime} == {
        "h264": "video/mp4", "vp8": "video/webm", "vp9": "video/webm",
    }  # fmt: skip
    matroska = videos.write_video(tmp_path / "film.mkv", codec="vp9")
    assert mime_of(matroska) is None


@pytest.mark.parametrize("codec", ["mpeg4", "hevc", "mpeg2video"])
def test_a_conversion_shows_the_same_frames_at_the_same_times(codec: str, tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", codec=codec, frames=45, size=(162, 122))
    heard: list[float] = []
    converted = convert(path, log=heard.append)
    context, frames = decoded(converted.data)
    assert (context.name, context.pix_fmt, context.width, context.height) == (
        "h264", "yuv420p", 162, 122,
    )  # fmt: skip
    assert [videos.number_of(frame) for _, frame in frames] == list(range(45))
    assert np.allclose([time for time, _ in frames], np.arange(45) / 30, atol=0.002)
    assert converted.is_whole
    assert converted.seconds == pytest.approx(1.5, abs=0.01)
    assert not heard  # there was not enough to tell of


@pytest.mark.parametrize("kind", ["packed", "H.264 in AVI"])
def test_files_whose_time_stamps_do_not_ascend(kind: str, tmp_path: Path) -> None:
    if kind == "packed":
        path = videos.write_packed(tmp_path / "clip", frames=45, num_fillers=0)
    else:
        path = videos.write_video(tmp_path / "clip.avi", codec="h264", frames=45)
    _, frames = decoded(convert(path, log=silent).data)
    assert [videos.number_of(frame) for _, frame in frames] == list(range(45))
    assert np.allclose([time for time, _ in frames], np.arange(45) / 30, atol=0.002)


def test_times_that_vary_stay_and_large_turned_pictures_become_small(tmp_path: Path) -> None:
    path = videos.write_video(
        tmp_path / "clip.mp4", codec="h264", frames=4, size=(800, 600), pts=[500, 600, 1500, 1600]
    )
    context, frames = decoded(convert(videos.turn_clockwise(path), log=silent).data)
    assert (context.width, context.height) == (360, 480)
    assert [time for time, _ in frames] == pytest.approx([0, 0.1, 1.0, 1.1], abs=0.002)


def test_a_conversion_is_bounded_in_length_and_rate_and_says_so(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", codec="mpeg4", frames=240, fps=120)
    converted = convert(path, most_s=1.0, log=silent)
    _, frames = decoded(converted.data)
    assert len(frames) == pytest.approx(30, abs=2)
    assert not converted.is_whole
    assert converted.seconds == pytest.approx(1.0, abs=0.05)


def test_whoever_is_told_may_stop_it(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", codec="mpeg4", frames=120)
    with pytest.raises(KeyboardInterrupt):
        convert(path, log=interrupt)


def interrupt(second: float) -> None:
    assert second > 0
    raise KeyboardInterrupt


def test_what_can_not_be_decoded_is_an_error(tmp_path: Path) -> None:
    path = videos.write_audio(tmp_path / "song.wav")
    with pytest.raises(VideoError, match="no video stream"):
        convert(path, log=silent)
    assert browser_video.MAX_S > 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile secret.mp4\n"),
        (
            "list.m3u8",
            "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        ),
    ],
)
def test_lists_that_name_other_files_are_never_followed(
    name: str, text: str, tmp_path: Path
) -> None:
    """They would show a file to whoever may hand in a list."""
    videos.write_video(tmp_path / "secret.mp4", codec="h264")
    path = tmp_path / name
    path.write_text(text)
    with av.open(str(path)) as container:
        assert container.streams.video  # FFmpeg would follow it
    with pytest.raises(VideoError, match="can't be opened as video"):
        plan_windows(path, window_s=None)
