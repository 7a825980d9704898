"""Leaks by source counted exactly, and copies found by their looks."""

from pathlib import Path

import numpy as np
import pytest
import videos
from folders import make_clips

from engine.data import audit, manifest, splits
from engine.data.fingerprint import fingerprint, near_duplicates
from engine.data.manifest import Manifest


def test_shared_sources_are_counted_with_and_without_class() -> None:
    clips = make_clips([("a", "x"), ("a", "x"), ("b", "x"), ("a", "y"), ("b", "z"), ("b", "z")])
    parts = ["train", "test", "test", "test", "val", "test"]
    dataset = Manifest(root=Path("nowhere"), clips=clips).with_splits(parts)
    leak = audit.leak(dataset, "by hand")
    assert (leak.num_train, leak.num_test) == (1, 4)
    assert (leak.same_source, leak.same_source_and_class) == (2, 1)


def test_every_scheme_is_compared(synth: Path) -> None:
    dataset = splits.apply(manifest.load(synth), splits.Stratified())
    leaks = {entry.scheme: entry for entry in audit.compare_schemes(dataset)}
    assert list(leaks) == [
        "in force: stratified seed 0", "90/10 at random", "stratified", "grouped",
        "official 1", "official 2", "official 3",
    ]  # fmt: skip
    assert (
        leaks["in force: stratified seed 0"].same_source_and_class
        == leaks["stratified"].same_source_and_class
    )
    assert leaks["stratified"].same_source_and_class > 0
    assert leaks["grouped"].same_source == 0
    for fold in (1, 2, 3):
        assert leaks[f"official {fold}"].num_test > 0
        assert leaks[f"official {fold}"].same_source_and_class == 0


def test_a_dataset_without_split_can_be_audited(synth: Path) -> None:
    dataset = manifest.load(synth)
    bare = dataset.with_splits([""] * len(dataset.clips))
    assert audit.compare_schemes(bare)[0].scheme == "90/10 at random"


def photo(seed: int):
    """Soft blobs, as different as photographs are."""
    field = np.random.default_rng(seed).normal(size=(3, 4, 5))

    def draw(index: int, width: int, height: int) -> np.ndarray:
        grown = np.kron(field, np.ones((height // 4, width // 5)))[:, :height, :width]
        frame = np.full((height, width, 3), 128.0)
        frame[: grown.shape[1], : grown.shape[2]] += 45 * np.roll(
            grown, index * width // 160, 2
        ).transpose(1, 2, 0)
        return frame.clip(0, 255).astype(np.uint8)

    return draw


def test_a_copy_in_another_codec_and_size_is_recognized(tmp_path: Path) -> None:
    original = videos.write_video(tmp_path / "a", draw=photo(1), size=(320, 240))
    copy = videos.write_video(tmp_path / "b", codec="vp9", draw=photo(1), size=(160, 120))
    pairs = near_duplicates([fingerprint(original, 30)], [fingerprint(copy, 30)])
    assert len(pairs) == 1


def test_different_clips_are_told_apart(tmp_path: Path) -> None:
    prints = [
        fingerprint(videos.write_video(tmp_path / f"{seed}", draw=photo(seed), frames=20), 20)
        for seed in range(12)
    ]
    pairs = near_duplicates(prints, prints)
    assert {(pair.first, pair.second) for pair in pairs} == {(i, i) for i in range(12)}


def test_black_clips_are_too_plain_to_compare(tmp_path: Path) -> None:
    black = videos.write_video(
        tmp_path / "black", draw=lambda index, width, height: np.zeros((height, width, 3), np.uint8)
    )
    assert fingerprint(black, 30) is None


@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_very_short_clips_have_a_fingerprint(num_frames: int, tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "short", draw=photo(2), frames=num_frames)
    found = fingerprint(path, num_frames)
    assert found is not None
    assert found.hash.shape == (3,)


@pytest.mark.slow
def test_planted_copies_are_named(synth: Path) -> None:
    import shutil

    from engine.data.index import index_folder

    clean = splits.apply(manifest.load(synth), splits.Grouped())
    assert audit.look_alikes(clean).pairs == []
    test_clip = next(clip for clip in clean.clips if clip.split == "test")
    train_clip = next(clip for clip in clean.clips if clip.split == "train")
    copy = Path(train_clip.path).parent / "copy.avi"
    shutil.copy(synth / test_clip.path, synth / copy)
    again = index_folder(synth).manifest
    by_path = {clip.path: clip.split for clip in clean.clips} | {copy.as_posix(): "train"}
    found = audit.look_alikes(again.with_splits([by_path[clip.path] for clip in again.clips]))
    assert [(pair.test, pair.train, pair.distance) for pair in found.pairs] == [
        (test_clip.path, copy.as_posix(), 0)
    ]
