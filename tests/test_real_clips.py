"""Clips that nobody drew here: HMDB51, UCF101, Kinetics, UT-Interaction, gestures, silhouettes.

They may not be published, so they lie beside the checkout and not in it; REAL_CLIPS names another
folder. Without them these tests are skipped.
"""

import os
from pathlib import Path

import av
import dali_decoder
import numpy as np
import pytest
import torch
import videos
from rows import assert_loaders_agree, rows_of

import engine
from dali_pipelines.decode import clip_file, wanted_frames
from dali_pipelines.decode.indexed_video import open_indexed
from dali_pipelines.decode.remux import cut_part
from dali_pipelines.decode.wanted_frames import decode_in_turn, decode_wanted
from dali_pipelines.loaders.dali_loader import DaliLoader
from dali_pipelines.loaders.loader_config import LoaderConfig
from dali_pipelines.loaders.window_loader import WindowLoader
from dali_pipelines.spec import ClipSpec

BESIDE = Path(__file__).parents[2] / "shared" / "real"
REAL = Path(os.environ.get("REAL_CLIPS", BESIDE))
SETS = {
    "odd_clips": ("odd_clips", 1),
    "UT-Interaction": ("ut_interaction", 6),
    "gestures": ("gestures", 8),
    "silhouettes": ("jhmdb_silhouettes", 60),
}
"""Folder, and how many clips to step over from one to the next."""
ORDER_UNKNOWN = "silhouettes"
"""H.264 in AVI: its order of display is stored nowhere."""

pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real clips in {REAL}")


def clips_of(name: str) -> list[Path]:
    folder, step = SETS[name]
    found = sorted(each for each in (REAL / folder).rglob("*") if each.suffix in (".avi", ".mp4"))
    assert found
    return found[::step]


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_every_way_to_a_frame_gives_the_true_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sparsely, in turn and from a part of the file, against decoding all of it."""
    by_turns: list[Path] = []
    fall_back = wanted_frames._decode_remaining
    monkeypatch.setattr(
        wanted_frames,
        "_decode_remaining",
        lambda path, *rest: [by_turns.append(path), fall_back(path, *rest)][1],
    )
    for path in clips_of(name):
        every = videos.every_frame(path)
        for count in (8, 16):
            wanted = np.unique(np.linspace(0, len(every) - 1, count).astype(np.int64))
            for decode in (decode_wanted, decode_in_turn):
                found = list(decode(path, wanted))
                assert [item.number for item in found] == wanted.tolist()
                assert not any(item.is_damaged for item in found)
                for item in found:
                    pixels = wanted_frames_pixels(item)
                    np.testing.assert_array_equal(pixels, every[item.number], str(path))
            part = cut_part(path, wanted)
            assert (part is None) == (name == ORDER_UNKNOWN)
            if part is None:
                continue
            times = [entry.time for entry in dali_decoder.index(part.encoded)]
            pictures = dali_decoder.frames_at(part.encoded)
            shown = list(pictures.values())
            for number in wanted.tolist():
                places = pictures[times[part.nvdec_numbers[number]]], shown[part.numbers[number]]
                for pixels in places:
                    np.testing.assert_array_equal(pixels, every[number], str(path))
        with open_indexed(path) as video:
            assert (video.index is None) == (name == ORDER_UNKNOWN)
        assert clip_file.probe(path).frames == len(every)
    assert not by_turns


def wanted_frames_pixels(item: wanted_frames.DecodedFrame) -> np.ndarray:
    pixels = item.frame.to_ndarray(format="rgb24")
    return np.rot90(pixels, item.frame.rotation // 90)


@pytest.mark.parametrize("name", SETS)
def test_all_are_sound_and_packed_ones_are_called_so(name: str) -> None:
    for path in clips_of(name):
        health = clip_file.check(path)
        assert (health.status, health.reason) == ("ok", ""), path
        assert health.facts is not None
        assert health.facts.frames == clip_file.probe(path).frames
        is_packed = path.suffix == ".avi" and (
            name == "UT-Interaction" or (name == "odd_clips" and "Soccer" not in path.name)
        )
        assert health.facts.is_packed == is_packed


@pytest.mark.slow
@pytest.mark.parametrize("resize", [128, 240, 256])
def test_loaders_agree_on_them_and_windows_too(resize: int) -> None:
    """240 and 256 are these clips' own heights, at which nothing is resized."""
    paths = [path for name in SETS for path in clips_of(name)[:12]]
    spec = ClipSpec(num_frames=8, resize=resize, crop=112)
    ours = assert_loaders_agree(rows_of(paths), LoaderConfig(spec=spec))
    assert not ours.report.describe_damage()
    assert not ours.report.failures
    windows = WindowLoader(paths, spec, batch_size=4)
    by_windows = {
        window.path: clip
        for batch in windows
        for window, clip in zip(batch.windows, batch.clips, strict=True)
    }
    (expected,) = DaliLoader(rows_of(paths), LoaderConfig(spec=spec, batch_size=len(paths)))
    for path, clip in zip(paths, expected.clips, strict=True):
        assert torch.equal(by_windows[path], clip), path


def test_metadata_that_is_not_utf8_is_no_obstacle() -> None:
    (path,) = (REAL / "odd_clips").glob("hmdb51_Turnk*")
    with pytest.raises(UnicodeDecodeError):
        av.open(str(path))
    assert engine.read_frames(path, [82, 0]).shape == (2, 240, 320, 3)
