"""The cache of decoded frames: exact, bounded, shared, and sound after any death."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import videos
from rows import SMALL, by_id, rows_of
from users import another_user, shared_folder

from dali_pipelines.augment import Augment
from dali_pipelines.errors import SpecError
from dali_pipelines.loaders.clip_reader import ClipReader
from dali_pipelines.loaders.dali_loader import DaliLoader
from dali_pipelines.loaders.frame_cache import FrameCache
from dali_pipelines.loaders.loader_config import LoaderConfig, Sample
from dali_pipelines.spec import ClipSpec

GB = 1.0


@pytest.fixture(scope="module")
def rows() -> Iterator[list[Sample]]:
    with shared_folder() as folder:
        yield rows_of([videos.write_video(folder / f"{n}", frames=20 + n) for n in range(12)])


def frames_of(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 10, 12, 3), np.uint8))


def test_later_epochs_read_the_same_pixels_without_decoding(
    rows: list[Sample], tmp_path: Path
) -> None:
    config = LoaderConfig(spec=SMALL, augment=Augment(), shuffle=True)
    plain = DaliLoader(rows, config)
    cached = DaliLoader(rows, config, cache=FrameCache(tmp_path, max_gb=GB))
    for _ in range(3):
        left, right = by_id(plain), by_id(cached)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[row][0], right[row][0]) for row in left)
    assert cached.report.read_by == {"PyAV": 12, "the cache": 24}


def test_frames_gather_where_each_epoch_wants_others(rows: list[Sample], tmp_path: Path) -> None:
    spec = ClipSpec(num_frames=8, sampling="random", resize=72, crop=64)
    config = LoaderConfig(spec=spec, augment=Augment())
    plain = DaliLoader(rows, config)
    cached = DaliLoader(rows, config, cache=FrameCache(tmp_path, max_gb=GB))
    for _ in range(25):
        left, right = by_id(plain), by_id(cached)
        assert all(torch.equal(left[row][0], right[row][0]) for row in left)
    assert cached.report.read_by["the cache"] > 12


def test_lengthened_clips_and_views_come_from_the_cache_too(tmp_path: Path) -> None:
    rows = rows_of([videos.write_video(tmp_path / "short", frames=5)])
    spec = ClipSpec(num_frames=16, resize=72, crop=64, short="lengthen-before")
    config = LoaderConfig(spec=spec, num_clips=2, num_crops=3)
    cached = DaliLoader(rows, config, cache=FrameCache(tmp_path / "cache", max_gb=GB))
    first, second = by_id(cached), by_id(cached)
    assert all(torch.equal(one, other) for one, other in zip(first[0], second[0], strict=True))
    assert cached.report.read_by == {"PyAV": 1, "the cache": 1}


def test_a_changed_video_or_another_size_is_decoded_anew(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", frames=20)
    cache = FrameCache(tmp_path / "cache", max_gb=GB)
    cache.put(path, 72, [0, 5], frames_of(2))
    assert cache.get(path, 72, [5, 0]) is not None
    assert cache.get(path, 64, [0]) is None
    assert cache.get(path, 72, [0, 6]) is None
    os.utime(path, (1, 1))
    assert cache.get(path, 72, [0]) is None


def test_what_is_put_later_lies_beside_what_was_there(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", frames=20)
    cache = FrameCache(tmp_path / "cache", max_gb=GB)
    first, second = frames_of(3, seed=1), frames_of(2, seed=2)
    cache.put(path, 72, [2, 8, 11], first)
    cache.put(path, 72, [5, 8], second)
    found = FrameCache(tmp_path / "cache", max_gb=GB).get(path, 72, [11, 5, 2, 8])
    assert found is not None
    np.testing.assert_array_equal(found, [first[2], second[0], first[0], second[1]])


@pytest.mark.parametrize("harm", ["cut", "empty", "flip", "other"])
def test_a_damaged_entry_is_dropped_and_decoded_anew(harm: str, tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", frames=20)
    FrameCache(tmp_path / "cache", max_gb=GB).put(path, 72, [1, 2], frames_of(2))
    (entry,) = (tmp_path / "cache").iterdir()
    data = bytearray(entry.read_bytes())
    data[-5] ^= 255
    harmed = {"cut": data[:-100], "empty": b"", "flip": data, "other": b"something else" * 50}
    entry.write_bytes(harmed[harm])
    cache = FrameCache(tmp_path / "cache", max_gb=GB)
    assert cache.get(path, 72, [1, 2]) is None
    assert not entry.exists()
    cache.put(path, 72, [1, 2], frames_of(2))
    assert cache.get(path, 72, [1, 2]) is not None


def test_it_stays_below_its_bound_and_keeps_what_is_in_use(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    paths = [videos.write_video(tmp_path / f"{n}", frames=2) for n in range(20)]
    size = 1 << 20
    big = [np.zeros((size // 3, 1, 3), np.uint8)]
    limit = 10.5 * size / 1e9
    cache = FrameCache(folder, max_gb=limit)
    for path in paths:
        cache.put(path, 72, [0], big)
    kept = [path for path in paths if cache.get(path, 72, [0]) is not None]
    assert kept == paths[:10]  # the first stay; nobody throws out what the next epoch wants
    assert _size(folder) <= limit * 1e9

    for entry in folder.iterdir():
        os.utime(entry, (1, 1))  # left behind by a run of long ago
    later = FrameCache(folder, max_gb=limit)
    later.get(paths[0], 72, [0])
    for path in paths[10:]:
        later.put(path, 72, [0], big)
    assert _size(folder) <= limit * 1e9
    assert later.get(paths[0], 72, [0]) is not None
    assert sum(later.get(path, 72, [0]) is not None for path in paths[10:]) == 9


def test_two_processes_that_share_a_folder_keep_its_bound(tmp_path: Path) -> None:
    paths = [videos.write_video(tmp_path / f"{n}", frames=2) for n in range(20)]
    size = 1 << 20
    big = [np.zeros((size // 3, 1, 3), np.uint8)]
    limit = 10.5 * size / 1e9
    one, other = (FrameCache(tmp_path / "cache", max_gb=limit) for _ in range(2))
    for first, second in zip(paths[::2], paths[1::2], strict=True):
        one.put(first, 72, [0], big)
        other.put(second, 72, [0], big)
    assert _size(tmp_path / "cache") <= limit * 1e9


@pytest.mark.parametrize("max_gb", [0.0, -1.0, float("nan")])
def test_a_cache_needs_room(max_gb: float, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="`cache_gb` must be above 0"):
        FrameCache(tmp_path / "cache", max_gb=max_gb)


def test_a_cache_that_cant_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpecError, match="file can't be used as a cache"):
        FrameCache(tmp_path / "file", max_gb=GB)


WRITER = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_dali_pipelines_frame_cache import *
rows = rows_of(sorted(Path(sys.argv[1]).glob("*.avi")))
loader = DaliLoader(rows, LoaderConfig(spec=SMALL), cache=FrameCache(Path(sys.argv[2]), max_gb=1))
print("ready", flush=True)
while True:
    list(loader)
    for entry in Path(sys.argv[2]).glob("*.frames"):
        entry.unlink(missing_ok=True)
"""


@pytest.mark.slow
def test_processes_may_share_a_folder_and_be_killed(rows: list[Sample], tmp_path: Path) -> None:
    """Two write and throw away without end and are killed; what they leave is never wrong."""
    expected = by_id(DaliLoader(rows, LoaderConfig(spec=SMALL)))
    chance = random.Random(0)
    for _ in range(4):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(rows[0].path.parent), str(tmp_path)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        time.sleep(chance.random())
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        loader = DaliLoader(rows, LoaderConfig(spec=SMALL), cache=FrameCache(tmp_path, max_gb=GB))
        for _ in range(2):
            found = by_id(loader)
            assert all(torch.equal(found[row][0], expected[row][0]) for row in expected)
        assert not loader.report.failures


def test_unfinished_files_of_the_dead_are_removed(tmp_path: Path) -> None:
    old, new = tmp_path / ".new-old", tmp_path / ".new-new"
    old.touch()
    new.touch()
    os.utime(old, (1, 1))
    FrameCache(tmp_path, max_gb=GB)
    assert not old.exists()
    assert new.exists()


def test_a_read_only_folder_serves_what_it_has(rows: list[Sample]) -> None:
    with shared_folder() as folder:
        loader = DaliLoader(rows[:6], LoaderConfig(spec=SMALL), cache=FrameCache(folder, max_gb=GB))
        expected = by_id(loader)
        folder.chmod(0o555)
        told: list[str] = []
        with another_user():
            cache = FrameCache(folder, max_gb=GB, log=told.append)
            loader = DaliLoader(rows, LoaderConfig(spec=SMALL), cache=cache)
            for _ in range(2):
                found = by_id(loader)
                assert all(torch.equal(found[row][0], expected[row][0]) for row in expected)
        folder.chmod(0o755)
    assert not loader.report.failures
    assert loader.report.read_by == {"the cache": 12, "PyAV": 12}
    (line,) = told
    assert "takes no more frames (Permission denied)" in line


def test_what_another_user_keeps_to_himself_is_decoded(rows: list[Sample]) -> None:
    with shared_folder() as folder:
        folder.chmod(0o777)
        by_id(DaliLoader(rows[:3], LoaderConfig(spec=SMALL), cache=FrameCache(folder, max_gb=GB)))
        entries = sorted(folder.iterdir())
        contents = [entry.read_bytes() for entry in entries]
        entries[0].chmod(0o000)
        told: list[str] = []
        with another_user():
            cache = FrameCache(folder, max_gb=GB, log=told.append)
            loader = DaliLoader(rows[:3], LoaderConfig(spec=SMALL), cache=cache)
            by_id(loader)
        entries[0].chmod(0o600)
        assert sorted(folder.iterdir()) == entries
        assert [entry.read_bytes() for entry in entries] == contents
    assert loader.report.read_by == {"the cache": 2, "PyAV": 1}
    assert not loader.report.failures
    (line,) = told
    assert f"{entries[0]} can't be read (Permission denied)" in line


def test_files_are_for_whom_the_umask_says(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", frames=2)
    for mask, mode in ((0o022, 0o644), (0o007, 0o660)):
        before = os.umask(mask)
        try:
            FrameCache(tmp_path / f"{mask}", max_gb=GB).put(path, 72, [0], frames_of(1))
        finally:
            os.umask(before)
        (entry,) = (tmp_path / f"{mask}").iterdir()
        assert entry.stat().st_mode & 0o777 == mode


def test_a_good_file_outlives_a_failed_read(tmp_path: Path) -> None:
    """As of a process that has too many files open."""
    path = videos.write_video(tmp_path / "clip", frames=2)
    told: list[str] = []
    cache = FrameCache(tmp_path / "cache", max_gb=GB, log=told.append)
    cache.put(path, 72, [0], frames_of(1))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        assert cache.get(path, 72, [0]) is None
        assert cache.get(path, 72, [0]) is None
        cache.put(path, 72, [1], frames_of(1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    (line,) = told
    assert "Too many open files" in line
    assert FrameCache(tmp_path / "cache", max_gb=GB).get(path, 72, [0]) is not None


def _size(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in folder.iterdir())


def test_dali_decodes_what_no_longer_fits_into_the_cache(tmp_path: Path) -> None:
    (row,) = rows_of([videos.write_video(tmp_path / "clip.webm", codec="vp9")])

    def read(cache: FrameCache | None) -> str:
        config = LoaderConfig(spec=SMALL)
        reader = ClipReader(config=config, cache=cache, takes_video=lambda row: True)
        return reader.read(row, 0).read_by

    cache = FrameCache(tmp_path / "cache", max_gb=1)
    assert read(cache) == "PyAV"
    assert read(cache) == "the cache"
    small = FrameCache(tmp_path / "small", max_gb=1e-6)
    assert read(small) == "PyAV"  # only now it is known to be full
    assert read(small) == "DALI's video decoder"
    assert read(None) == "DALI's video decoder"
