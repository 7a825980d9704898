"""Parts of files: the wanted frames in them are those of the whole, bit for bit."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
import videos
from odd_videos import FILES, ORDER_UNKNOWN

from dali_pipelines.decode.remux import cut_part

NONE = {*ORDER_UNKNOWN, "wmv2", "mpeg2video"}
"""Files of which no part is cut: their order isn't known, or DALI can't decode them."""
SOMETIMES = {"frames that are not coded"}


def frames_of(encoded: np.ndarray) -> list[np.ndarray]:
    with av.open(io.BytesIO(encoded.tobytes())) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", FILES)
def test_a_part_holds_the_wanted_frames(name: str, tmp_path: Path) -> None:
    path = FILES[name](tmp_path)
    every = videos.every_frame(path)
    rng = np.random.default_rng(0)
    choices = [[0], [len(every) - 1], [20, 21, 22], [1, 40], list(range(len(every)))]
    choices += [rng.choice(len(every), size).tolist() for size in (2, 3, 5, 8, 20)]
    for wanted in choices:
        part = cut_part(path, np.array(wanted))
        if name not in SOMETIMES:
            assert (part is None) == (name in NONE)
        if part is None:
            continue
        found = frames_of(part.encoded)
        assert part.numbers.keys() == set(wanted)
        for number, place in part.numbers.items():
            turned = np.rot90(every[number]) if name == "turned" else every[number]
            np.testing.assert_array_equal(found[place], turned)


def test_a_part_is_as_small_as_what_is_wanted(tmp_path: Path) -> None:
    """Two of three frames are B-frames here, and a keyframe comes each twelve frames."""
    path = videos.write_video(tmp_path / "clip", codec="mpeg4", frames=120, gop=12)
    part = cut_part(path, np.array([70]))
    assert part is not None
    assert len(frames_of(part.encoded)) <= 5
    assert len(part.encoded) < path.stat().st_size / 10


def test_what_lies_beyond_the_end_is_not_there(tmp_path: Path) -> None:
    assert cut_part(videos.write_video(tmp_path / "clip"), np.array([3, 30])) is None
