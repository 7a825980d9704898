"""Real videos of every codec that the doctor must know, and every way a file may be odd or bad."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import videos

from dali_pipelines.decode import clip_file
from dali_pipelines.errors import VideoError


@pytest.mark.parametrize("codec", videos.CODECS)
def test_every_codec_is_probed_checked_and_read_exactly(codec: str, tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", codec=codec, frames=40)
    facts = clip_file.probe(path)
    assert (facts.codec, facts.width, facts.height) == (codec, 160, 120)
    assert facts.fps == pytest.approx(30, abs=0.1)
    assert not facts.variable_rate
    health = clip_file.check(path)
    assert health.status == "ok", health.reason
    assert health.facts is not None
    assert health.facts.frames == 40
    assert set(health.loaders) >= {"dali-cpu", "torch"}
    wanted = np.array([0, 1, 7, 23, 39])
    assert [videos.number_of(frame) for frame in clip_file.read_frames(path, wanted)] == [*wanted]


@pytest.mark.parametrize("codec", ["mpeg4", "h264", "wmv2"])
def test_nvdec_is_offered_only_what_it_documents(codec: str, tmp_path: Path) -> None:
    health = clip_file.check(videos.write_video(tmp_path / "clip", codec=codec))
    assert ("dali-gpu" in health.loaders) == (codec != "wmv2")


def test_b_frames_are_there_and_counted_as_shown(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", codec="mpeg4", frames=50)
    with av.open(str(path)) as container:
        kinds = [int(frame.pict_type) for frame in container.decode(video=0)]
    assert kinds.count(3) > 10  # 3 is B: the fixture is what it claims to be
    every = clip_file.read_frames(path, np.arange(50))
    assert [videos.number_of(frame) for frame in every] == list(range(50))


def test_gop_length_is_the_longest_distance_of_keyframes(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", codec="mpeg2video", frames=40, gop=10)
    assert clip_file.probe(path).gop == 10


def test_variable_rate_is_told_from_a_coarse_clock(tmp_path: Path) -> None:
    uneven = [0, 20, 100, 130, 300, 310, 480, 500, 700, 720, 900, 910]
    path = videos.write_video(tmp_path / "vfr.mp4", codec="h264", frames=12, pts=uneven)
    facts = clip_file.probe(path)
    assert facts.variable_rate
    assert [
        videos.number_of(frame) for frame in clip_file.read_frames(path, np.arange(12))
    ] == list(range(12))
    # Matroska counts milliseconds: 33, 33, 34, … is a constant rate.
    assert not clip_file.probe(videos.write_video(tmp_path / "cfr", codec="vp8")).variable_rate


def test_one_dropped_frame_is_no_variable_rate(tmp_path: Path) -> None:
    pts = [40 * i for i in range(60) if i != 30]
    path = videos.write_video(tmp_path / "gap.mp4", codec="h264", frames=59, pts=pts)
    assert not clip_file.probe(path).variable_rate


@pytest.mark.parametrize("step", [2, 3])
def test_avi_with_dropped_frames_is_variable_but_not_cut_short(step: int, tmp_path: Path) -> None:
    """AVI keeps a slot for each tick of its clock, also for those that show nothing."""
    slots = [i for i in range(90) if i % 7 or step == 3]
    slots = [slot for slot in slots if slot < 30 or slot % step == 0]
    path = videos.write_video(tmp_path / "gaps.avi", frames=len(slots), slots=slots)
    health = clip_file.check(path)
    assert health.status == "ok", health.reason
    assert health.facts is not None
    assert health.facts.frames == len(slots)
    assert health.facts.variable_rate


@pytest.mark.parametrize("shift", [5, 20])
def test_an_mp4_cut_without_recoding_is_not_cut_short(shift: int, tmp_path: Path) -> None:
    """Its edit list hides the frames before the cut, which the header still counts."""
    whole = videos.write_video(tmp_path / "whole.mp4", codec="h264", frames=60, gop=60)
    cut = videos.cut_without_recoding(whole, tmp_path / "cut.mp4", shift)
    health = clip_file.check(cut)
    assert health.status == "ok", health.reason
    assert health.facts is not None
    assert health.facts.frames == 60 - shift
    (first,) = clip_file.read_frames(cut, np.array([0]))
    assert videos.number_of(first) == shift


def test_rotation_turns_size_and_pixels_as_a_player_does(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "turned.mp4", codec="h264", draw=videos.corner)
    videos.turn_clockwise(path)
    facts = clip_file.probe(path)
    assert (facts.width, facts.height, abs(facts.rotation)) == (120, 160, 90)
    (frame,) = clip_file.read_frames(path, np.array([3]), gray=True)
    assert frame.shape == (160, 120)
    assert frame[20, 100] > 200  # the white quarter went from top left to top right
    assert frame[20, 20] < 60
    assert frame[140, 100] < 60


@pytest.mark.parametrize("codec", ["mpeg4", "h264", "vp9", "mjpeg"])
def test_one_frame_is_a_clip(codec: str, tmp_path: Path) -> None:
    health = clip_file.check(videos.write_video(tmp_path / "one", codec=codec, frames=1))
    assert health.status == "ok", health.reason
    assert health.facts is not None
    assert (health.facts.frames, health.facts.gop) == (1, 1)


@pytest.mark.parametrize(("codec", "size"), [("mpeg4", (161, 97)), ("vp8", (35, 51))])
def test_odd_sizes(codec: str, size: tuple[int, int], tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "odd", codec=codec, size=size)
    facts = clip_file.probe(path)
    assert (facts.width, facts.height) == size
    assert clip_file.read_frames(path, np.array([5])).shape == (1, size[1], size[0], 3)


def test_frames_may_be_asked_for_small_and_grey(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip")
    small = clip_file.read_frames(path, np.array([2, 11]), size=(32, 24), gray=True)
    assert small.shape == (2, 24, 32)
    assert [videos.number_of(frame) for frame in small] == [2, 11]


def test_a_wanted_frame_beyond_the_end_is_an_error(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", frames=10)
    with pytest.raises(
        VideoError, match=r"clip\.avi: frame 12 is wanted but only 10 frames decode"
    ):
        clip_file.read_frames(path, np.array([1, 12]))


def test_packed_files_count_what_they_show_and_are_not_damaged(tmp_path: Path) -> None:
    path = videos.write_packed(tmp_path / "clip", frames=72, size=(560, 240))
    facts = clip_file.probe(path)
    assert (facts.frames, facts.frames_claimed) == (72, 73)
    assert facts.is_packed
    assert facts.notes() == ["packed bitstream"]
    health = clip_file.check(path)
    assert health.status == "ok", health.reason
    assert health.facts is not None
    assert health.facts.frames == 72


def test_of_several_videos_the_first_is_read_and_it_is_said(tmp_path: Path) -> None:
    path = videos.write_two_in_one(tmp_path / "two.mkv")
    facts = clip_file.probe(path)
    assert (facts.width, facts.frames, facts.num_streams) == (96, 20, 2)
    assert facts.notes() == ["the first of 2 videos is read"]


@pytest.mark.parametrize("numbers", [(0,) * 9, (65536, 32768, 0, 12288, 65536, 0, 0, 0, 1 << 30)])
def test_a_matrix_that_is_no_rotation_turns_nothing(
    numbers: tuple[int, ...], tmp_path: Path
) -> None:
    path = videos.write_video(tmp_path / "clip.mp4", codec="h264", draw=videos.corner)
    videos.write_matrix(path, numbers)
    facts = clip_file.probe(path)
    assert (facts.width, facts.height, facts.rotation) == (160, 120, 0)
    (frame,) = clip_file.read_frames(path, np.array([3]), gray=True)
    assert frame[20, 20] > 200


def test_an_encrypted_file_is_called_so(tmp_path: Path) -> None:
    options = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
        "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
    }
    path = videos.write_video(tmp_path / "clip.mp4", codec="h264", options=options)
    for read in (clip_file.probe, lambda path: clip_file.read_frames(path, np.array([0]))):
        with pytest.raises(VideoError, match=r"clip\.mp4: it is encrypted"):
            read(path)
    assert "encrypted" in clip_file.check(path).reason


def _truncated(folder: Path) -> Path:
    path = videos.write_video(folder / "truncated", frames=60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _one_frame_left(folder: Path) -> Path:
    path = videos.write_packed(folder / "one_left", frames=60, draw=videos.noisy)
    with av.open(str(path)) as container:
        begin, end = [packet.pos for packet in container.demux(video=0) if packet.size][:2]
    assert begin < end
    path.write_bytes(path.read_bytes()[: end - 8])
    return path


def _truncated_mp4(folder: Path) -> Path:
    path = videos.write_video(folder / "truncated.mp4", codec="h264", frames=60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _zero_bytes(folder: Path) -> Path:
    path = folder / "zero.avi"
    path.touch()
    return path


def _text(folder: Path) -> Path:
    path = folder / "text.avi"
    path.write_text("This is no video.\n" * 100)
    return path


def _scrambled(folder: Path) -> Path:
    path = videos.write_video(folder / "scrambled.mp4", codec="h264", frames=60)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 8
    noise = np.random.default_rng(0).integers(0, 256, 4000, np.uint8).tobytes()
    end = min(data.index(b"moov") - 4, start + 4000)  # pictures alone, however few bytes they take
    data[start:end] = noise[: end - start]
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_truncated, "cut short"),
        (_one_frame_left, "cut short: 1 of 61 frames are there"),  # as its header says
        (_truncated_mp4, "can't be opened as video"),
        (_zero_bytes, "the file is empty"),
        (_text, "can't be opened as video"),
        (_scrambled, "damaged|none of its frames|no frame"),
        (lambda folder: videos.write_audio(folder / "audio.avi"), "no video stream"),
        (lambda folder: folder / "missing.avi", "no such file"),
    ],
)
def test_bad_files_are_found_with_their_reason(make, reason: str, tmp_path: Path) -> None:
    import re

    health = clip_file.check(make(tmp_path))
    assert health.status == "bad"
    assert re.search(reason, health.reason), health.reason
    assert health.loaders == ()


def test_probing_a_bad_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"zero\.avi: the file is empty"):
        clip_file.probe(_zero_bytes(tmp_path))


def test_bad_files_print_nothing(tmp_path: Path) -> None:
    """FFmpeg's own chatter would bury the one line that matters."""
    path = _scrambled(tmp_path)
    code = (
        "import sys; from pathlib import Path; from dali_pipelines.decode import clip_file; "
        "clip_file.check(Path(sys.argv[1]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert result.stdout + result.stderr == ""
