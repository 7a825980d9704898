"""DaliLoader against the plain TorchLoader: same clips, same order, same pixels."""

import dataclasses
import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import videos
from hypothesis import given
from hypothesis import strategies as st
from odd_videos import COLORS, FILES, RGB, UNEVEN, write_color
from rows import SMALL, assert_loaders_agree, assert_same_pixels, by_id, rows_of, write_frames

from dali_pipelines.augment import Augment
from dali_pipelines.decode import clip_file
from dali_pipelines.errors import LoaderError, SpecError
from dali_pipelines.loaders.clip_reader import ClipReader
from dali_pipelines.loaders.dali_graph import ClipGraph
from dali_pipelines.loaders.dali_loader import DaliLoader
from dali_pipelines.loaders.frame_cache import FrameCache
from dali_pipelines.loaders.loader_config import Batch, ClipLoader, LoaderConfig, Sample
from dali_pipelines.loaders.torch_loader import TorchLoader
from dali_pipelines.loaders.video_choice import MAX_REFUSED
from dali_pipelines.loaders.window_loader import WindowLoader
from dali_pipelines.spec import ClipSpec, Sampling

JITTER = Augment(brightness=0.3, contrast=0.3, saturation=0.3, hue=20)


@pytest.fixture(scope="session")
def synth_rows(synth_master: Path) -> list[Sample]:
    return rows_of(sorted(synth_master.rglob("*.avi")))


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_video(name: str, tmp_path: Path) -> None:
    rows = rows_of([FILES[name](tmp_path)])
    for size in (
        SMALL,
        ClipSpec(num_frames=8),
        ClipSpec(num_frames=5, sampling="uniform", stride=3),
    ):
        assert_loaders_agree(rows, LoaderConfig(spec=size))
    assert_loaders_agree(rows, LoaderConfig(spec=SMALL, augment=JITTER, seed=3))


@pytest.mark.parametrize("short", ["loop", "hold", "lengthen-before", "lengthen-after"])
def test_short_clips(short: Any, tmp_path: Path) -> None:
    rows = rows_of([videos.write_video(tmp_path / "short", frames=5)])
    spec = ClipSpec(num_frames=16, resize=72, crop=64, short=short)
    assert_loaders_agree(rows, LoaderConfig(spec=spec))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("short", ["loop", "lengthen-before"])
def test_extracted_frames(suffix: str, short: Any, tmp_path: Path) -> None:
    rows = rows_of([write_frames(tmp_path / "clip", suffix)])
    for frames in (8, 30):
        spec = ClipSpec(num_frames=frames, resize=72, crop=64, short=short)
        loader = assert_loaders_agree(rows, LoaderConfig(spec=spec, augment=JITTER))
    by_dali = short == "loop"  # who mixes frames needs their pixels
    assert loader.report.read_by == {"DALI's image decoder" if by_dali else "PyAV": 1}


@pytest.mark.parametrize("size", [(161, 97), (64, 400), (720, 480), (640, 360)])
def test_odd_and_large_sizes(size: tuple[int, int], tmp_path: Path) -> None:
    rows = rows_of([videos.write_video(tmp_path / "clip", size=size, frames=12)])
    assert_loaders_agree(rows, LoaderConfig(spec=SMALL, augment=Augment()))
    assert_loaders_agree(rows, LoaderConfig(spec=SMALL, num_clips=2, num_crops=3))


def test_the_synthetic_set(synth_rows: list[Sample]) -> None:
    assert_loaders_agree(synth_rows, LoaderConfig(spec=ClipSpec(), batch_size=7, augment=Augment()))


@pytest.mark.parametrize("codec", ["vp8", "vp9", "mjpeg"])
def test_dalis_own_video_decoder_on_a_cpu(codec: str, tmp_path: Path) -> None:
    """The front that a GPU uses, on the codecs that DALI opens without one."""
    paths = [videos.write_video(tmp_path / f"{n}", codec=codec, frames=30) for n in range(3)]
    config = LoaderConfig(spec=SMALL, augment=JITTER, batch_size=2)
    loader = assert_loaders_agree(rows_of(paths), config, decoder="dali")
    assert loader.report.read_by == {"DALI's video decoder": 3}


def test_fronts_mix_in_one_batch_and_keep_their_order(tmp_path: Path) -> None:
    paths = [
        videos.write_video(tmp_path / "a", codec="vp9"),
        videos.write_video(tmp_path / "b", codec="h264"),
        write_frames(tmp_path / "c", ".jpg"),
        videos.write_video(tmp_path / "d", codec="vp9"),
        write_frames(tmp_path / "e", ".png"),
    ]
    config = LoaderConfig(spec=SMALL, num_crops=3)
    loader = assert_loaders_agree(rows_of(paths), config, decoder="dali")
    assert loader.report.read_by == Counter(
        {"DALI's video decoder": 2, "DALI's image decoder": 2, "PyAV": 1}
    )
    (batch,) = loader
    assert batch.ids.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert batch.labels.tolist() == [number % 3 for number in batch.ids.tolist()]


@pytest.mark.parametrize(("codec", "matrix", "full"), COLORS)
def test_colors_are_right_whoever_decodes(
    codec: str, matrix: str, full: bool, tmp_path: Path
) -> None:
    """DALI's decoder takes every file for BT.601, so others are PyAV's."""
    rows = rows_of([write_color(tmp_path / "color", codec, matrix, full)])
    spec = ClipSpec(num_frames=4, resize=72, crop=64, mean=(0, 0, 0), std=(1, 1, 1))
    loader = assert_loaders_agree(rows, LoaderConfig(spec=spec), decoder="dali")
    (batch,) = loader
    found = batch.clips[0, 0, :, 32, 32] * 255
    assert (found - torch.tensor(RGB)).abs().max() <= 4
    by_dali = codec == "vp9" and matrix == "601"
    assert ("DALI's video decoder" in loader.report.read_by) == by_dali


@pytest.mark.parametrize("size", [(340, 256), (256, 340), (162, 256)])
@pytest.mark.parametrize("turned", [True, False])
def test_pictures_that_need_no_resizing(
    size: tuple[int, int], turned: bool, tmp_path: Path
) -> None:
    """FFmpeg pads their rows, and turning only exchanges strides: DALI takes neither."""
    path = videos.write_video(tmp_path / "clip.mp4", codec="h264", size=size)
    if turned:
        videos.turn_clockwise(path)
    spec = ClipSpec(num_frames=4, resize=min(size), crop=112)
    assert_loaders_agree(rows_of([path]), LoaderConfig(spec=spec))
    assert_loaders_agree(rows_of([path]), LoaderConfig(spec=spec, augment=JITTER))
    (batch,) = WindowLoader([path], spec)
    (expected,) = DaliLoader(rows_of([path]), LoaderConfig(spec=spec))
    assert torch.equal(batch.clips, expected.clips)


@pytest.mark.parametrize("sampling", get_args(Sampling))
def test_every_sampling_of_a_packed_clip(sampling: Sampling, tmp_path: Path) -> None:
    """In testing and in training, of a clip that is long enough and of one that isn't."""
    paths = [
        videos.write_packed(tmp_path / "long", frames=60, max_b_frames=2, size=(162, 96)),
        videos.write_packed(tmp_path / "short", frames=5, size=(96, 80)),
    ]
    spec = ClipSpec(num_frames=8, sampling=sampling, stride=5, resize=72, crop=64)
    for augment in (None, Augment(flip=False)):
        loader = assert_loaders_agree(
            rows_of(paths), LoaderConfig(spec=spec, augment=augment, seed=3)
        )
        assert not loader.report.describe_damage()
    ends = np.array([0, 59])
    found = clip_file.read_frames(paths[0], ends)
    assert [videos.number_of(frame) for frame in found] == ends.tolist()


def test_dalis_decoder_counts_frames_of_variable_rate_as_we_do(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "vfr.webm", codec="vp9", frames=60, pts=UNEVEN)
    loader = assert_loaders_agree(rows_of([path]), LoaderConfig(spec=SMALL), decoder="dali")
    assert loader.report.read_by == {"DALI's video decoder": 1}


def test_a_frame_that_is_wanted_twice_is_asked_for_once(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "short.webm", codec="vp9", frames=5)
    for short in ("loop", "hold"):
        spec = ClipSpec(
            num_frames=12, sampling="uniform", stride=1, short=short, resize=72, crop=64
        )
        loader = assert_loaders_agree(rows_of([path]), LoaderConfig(spec=spec), decoder="dali")
        assert loader.report.read_by == {"DALI's video decoder": 1}


def test_both_loaders_tell_damage(tmp_path: Path) -> None:
    path = videos.write_packed(tmp_path / "clip", frames=60, draw=videos.noisy)
    rows = rows_of([path])
    videos.damage(path, 10, 20)
    config = LoaderConfig(spec=ClipSpec(num_frames=6, resize=72, crop=64))
    counts = []
    for loader in (DaliLoader(rows, config), TorchLoader(rows, config, num_workers=1)):
        list(loader)
        counts.append(loader.report.damaged_frames[path])
        assert "damaged frames of 1 files were used" in loader.report.describe()
    assert counts[0] == counts[1] > 3


@pytest.mark.parametrize(("claimed", "is_read"), [(178, True), (182, False), (400, False)])
def test_frames_that_the_index_claims_in_vain_are_judged_by_one_rule(
    claimed: int, is_read: bool, tmp_path: Path
) -> None:
    (row,) = rows_of([videos.write_video(tmp_path / "clip", frames=170, size=(64, 48))])
    spec = ClipSpec(num_frames=6, sampling="equidistant", resize=48, crop=32)
    found = []
    for kind in (DaliLoader, TorchLoader):
        loader = kind([dataclasses.replace(row, frames=claimed)], LoaderConfig(spec=spec))
        count = sum(len(batch.ids) for batch in loader)
        found.append((count, loader.report.damaged_frames, loader.report.failures))
    assert found[0] == found[1]
    assert found[0][0] == is_read
    if not is_read:
        reason = f"frame {claimed - 1} is wanted but only 170 frames decode"
        assert found[0][2] == {row.path: reason}


def test_dalis_decoder_invents_no_frames_beyond_the_end(tmp_path: Path) -> None:
    """The index counts more frames than there are now."""
    path = videos.write_video(tmp_path / "clip.webm", codec="vp9", frames=20)
    (row,) = rows_of([path])
    for frames, replaced, failed in ((21, 1, 0), (60, 0, 1)):
        wrong = dataclasses.replace(row, frames=frames)
        loader = DaliLoader([wrong], LoaderConfig(spec=SMALL), decoder="dali")
        list(loader)
        assert loader.report.damaged_frames.total() == replaced
        assert len(loader.report.failures) == failed


def test_a_file_that_dalis_decoder_refuses_is_read_by_pyav(tmp_path: Path) -> None:
    """The index says VP9, but since then somebody put an H.264 file there."""
    paths = [videos.write_video(tmp_path / f"{n}.webm", codec="vp9") for n in range(3)]
    rows = rows_of(paths)
    shutil.move(videos.write_video(tmp_path / "other.mp4", codec="h264"), paths[1])
    loader = assert_loaders_agree(rows, LoaderConfig(spec=SMALL), decoder="dali")
    assert loader.report.read_by == {"DALI's video decoder": 2, "PyAV": 1}
    assert list(loader.report.refused) == [paths[1]]
    assert "1.webm: Failed to create video decoder" in loader.report.describe()
    assert not loader.report.failures


def test_files_of_a_kind_that_dalis_decoder_refuses_are_not_offered_again(tmp_path: Path) -> None:
    """The index says VP9; seven files are H.264 by now. After two, DALI isn't asked any more."""
    paths = [videos.write_video(tmp_path / f"{n}.webm", codec="vp9") for n in range(9)]
    rows = rows_of(paths)
    for path in paths[2:]:
        shutil.move(videos.write_video(tmp_path / "other.mp4", codec="h264"), path)
    for batch_size in (1, 9):  # one by one, and all at once
        config = LoaderConfig(spec=SMALL, batch_size=batch_size)
        loader = assert_loaders_agree(rows, config, decoder="dali")
        assert loader.report.read_by == {"DALI's video decoder": 2, "PyAV": 7}
        assert len(loader.report.refused) == MAX_REFUSED


def test_dalis_decoder_waits_until_the_cache_is_full(tmp_path: Path) -> None:
    rows = rows_of([videos.write_video(tmp_path / f"{n}", codec="vp9") for n in range(6)])
    frames = SMALL.num_frames * SMALL.resize * SMALL.resize * 4 // 3 * 3  # of one clip, 4:3
    cache = FrameCache(tmp_path / "cache", max_gb=4.5 * frames / 1e9)
    config = LoaderConfig(spec=SMALL, batch_size=1)
    loader = DaliLoader(rows, config, cache=cache, decoder="dali", num_threads=1)
    first = by_id(loader)
    assert loader.report.read_by == {"PyAV": 5, "DALI's video decoder": 1}
    loader.report.read_by.clear()
    second = by_id(loader)
    assert loader.report.read_by == {"the cache": 4, "DALI's video decoder": 2}
    for number, clips in first.items():
        assert_same_pixels(clips[0], second[number][0], SMALL)


def test_clips_in_one_block_are_those_frame_by_frame(tmp_path: Path) -> None:
    """What a GPU gets, in one copy per view."""
    rows = rows_of([videos.write_video(tmp_path / f"{n}", codec="h264") for n in range(3)])
    config = LoaderConfig(spec=SMALL, augment=Augment())
    found = []
    for for_gpu in (False, True):
        read = [ClipReader(config=config, for_gpu=for_gpu).read(row, 1) for row in rows]
        graph = ClipGraph(read[0].input_kind, SMALL, max_views=3, num_threads=1)
        sources = [source for clip in read for source in clip.sources]
        found.append(graph.run(sources, [view for clip in read for view in clip.views]))
    assert len(sources) == 3
    assert torch.equal(*found)


def test_half_precision(synth_rows: list[Sample]) -> None:
    spec = ClipSpec(num_frames=4, resize=72, crop=64)
    config = LoaderConfig(spec=spec, values="float16", batch_size=4)
    batch = next(iter(DaliLoader(synth_rows, config)))
    assert batch.clips.shape == (4, 4, 3, 64, 64)
    assert batch.clips.dtype == torch.float16
    assert_loaders_agree(synth_rows[:5], config)


def test_a_clip_that_comes_twice_keeps_its_places(tmp_path: Path) -> None:
    """As where rare classes are seen more often; videos and extracted frames in one batch."""
    video, frames = rows_of(
        [videos.write_video(tmp_path / "a"), write_frames(tmp_path / "b", ".jpg")]
    )
    again = dataclasses.replace(video, repeat=1)
    rows = [video, frames, again, frames, video]
    config = LoaderConfig(spec=SMALL, augment=Augment())
    (ours,), (plain,) = DaliLoader(rows, config), TorchLoader(rows, config, num_workers=0)
    assert ours.ids.tolist() == plain.ids.tolist() == [0, 1, 0, 1, 0]
    for one, other in zip(ours.clips, plain.clips, strict=True):
        assert_same_pixels(one, other, SMALL)


@pytest.mark.slow
def test_the_plain_loader_works_where_shared_memory_is_small(
    on_small_disk: Any, synth_master: Path
) -> None:
    """A container's /dev/shm has 64 MiB unless it is started with more."""
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from rows import rows_of
from dali_pipelines.loaders.loader_config import LoaderConfig
from dali_pipelines.loaders.torch_loader import TorchLoader
from dali_pipelines.spec import ClipSpec
rows = rows_of(sorted(Path(sys.argv[1]).rglob("*.avi"))[:8])
feed = LoaderConfig(spec=ClipSpec(num_frames=8, resize=72, crop=64), batch_size=4)
loader = TorchLoader(rows, feed, num_workers=2, timeout_s=60)
print([batch.clips.shape[0] for batch in loader], loader.report.failures)
print(loader.note)
"""
    done = subprocess.run(
        [*on_small_disk(Path("/dev/shm"), "1m"), sys.executable, "-c", code, str(synth_master)],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[4, 4] {}\n/dev/shm has less than the 8 MiB")
    assert not done.stderr


def test_the_plain_loader_says_nothing_where_shared_memory_is_large(
    synth_rows: list[Sample],
) -> None:
    assert TorchLoader(synth_rows, LoaderConfig(spec=SMALL, batch_size=1), num_workers=1).note == ""


@pytest.mark.parametrize("augment", [None, JITTER])
@pytest.mark.slow
def test_bytes_are_the_pixels_that_would_be_normalized(
    synth_rows: list[Sample], augment: Augment | None
) -> None:
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (SMALL.mean, SMALL.std))
    floats, raw = (
        by_id(DaliLoader(synth_rows, LoaderConfig(spec=SMALL, augment=augment, values=values)))
        for values in ("float32", "uint8")
    )
    config = LoaderConfig(spec=SMALL, augment=augment, values="uint8")
    plain = by_id(TorchLoader(synth_rows, config))
    for loader in (DaliLoader(synth_rows, config), TorchLoader(synth_rows, config)):
        assert next(iter(loader)).clips.dtype == torch.uint8
    for number, (pixels,) in raw.items():
        assert torch.allclose((pixels / 255 - mean) / std, floats[number][0], atol=1e-5)
        assert torch.equal(pixels, plain[number][0]) or augment is not None


def test_a_kept_batch_is_not_written_over(synth_rows: list[Sample]) -> None:
    loader = DaliLoader(synth_rows, LoaderConfig(spec=SMALL, batch_size=4))
    kept = list(loader)
    again = list(loader)
    for one, other in zip(kept, again, strict=True):
        assert torch.equal(one.clips, other.clips)


def test_what_is_drawn_depends_on_seed_epoch_and_clip_alone(synth_rows: list[Sample]) -> None:
    def epoch(loader: ClipLoader) -> dict[int, list[torch.Tensor]]:
        return by_id(loader)

    config = LoaderConfig(spec=SMALL, augment=Augment(), shuffle=True, seed=5)
    loader = DaliLoader(synth_rows, config)
    first, second = epoch(loader), epoch(loader)
    alone = DaliLoader([synth_rows[9]], config, num_threads=1)
    assert torch.equal(epoch(alone)[9][0], first[9][0])
    assert not torch.equal(second[9][0], first[9][0])
    other = epoch(DaliLoader(synth_rows, LoaderConfig(spec=SMALL, augment=Augment(), seed=6)))
    assert not torch.equal(other[9][0], first[9][0])


def test_flipping_can_be_switched_off(synth_rows: list[Sample]) -> None:
    for flip in (True, False):
        config = LoaderConfig(spec=SMALL, augment=Augment(flip=flip))
        mirrored = [config.views(row, epoch)[0].mirror for row in synth_rows for epoch in range(4)]
        assert any(mirrored) == flip
        assert not all(mirrored)


@given(
    num_rows=st.integers(1, 90),
    batch_size=st.integers(1, 20),
    world_size=st.integers(1, 5),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_over_all_ranks_each_clip_comes_once(
    num_rows: int, batch_size: int, world_size: int, epoch: int, shuffle: bool
) -> None:
    def batches(size: int, rank: int = 0, world_size: int = 1) -> list[list[int]]:
        config = LoaderConfig(
            spec=SMALL, batch_size=size, shuffle=shuffle, rank=rank, world_size=world_size
        )
        return config.batches(num_rows, epoch)

    shares = [batches(batch_size, rank, world_size) for rank in range(world_size)]
    assert sorted(clip for share in shares for batch in share for clip in batch) == list(
        range(num_rows)
    )
    together = [sorted(sum(step, [])) for step in zip(*shares, strict=True)]  # noqa: RUF017
    assert together == [sorted(batch) for batch in batches(batch_size * world_size)]


@pytest.mark.parametrize("kind", [DaliLoader, TorchLoader])
def test_a_rank_with_nothing_left_makes_an_empty_step(kind: Any, synth_rows: list[Sample]) -> None:
    rows = [*synth_rows[:4], dataclasses.replace(synth_rows[5], path=Path("gone.avi"))]
    sizes = [
        [
            len(batch.ids)
            for batch in kind(rows, LoaderConfig(spec=SMALL, batch_size=1, rank=r, world_size=3))
        ]
        for r in range(3)
    ]
    assert sizes == [[1, 1], [1, 0], [1, 0]]
    assert [len(batch.ids) for batch in kind(rows, LoaderConfig(spec=SMALL, batch_size=1))] == [
        1
    ] * 4


def test_epochs_are_shuffled_anew_and_alike_for_all() -> None:
    config = LoaderConfig(spec=SMALL, shuffle=True, seed=1)
    assert config.batches(40, 0) == LoaderConfig(spec=SMALL, shuffle=True, seed=1).batches(40, 0)
    assert config.batches(40, 0) != config.batches(40, 1)
    assert config.batches(40, 0) != LoaderConfig(spec=SMALL, shuffle=True, seed=2).batches(40, 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DaliLoader, TorchLoader])
@pytest.mark.parametrize("stop_after", [0, 1, 3, 8])
def test_a_resumed_run_goes_on_at_the_right_clip(
    kind: Any, stop_after: int, synth_rows: list[Sample]
) -> None:
    config = LoaderConfig(spec=SMALL, batch_size=4, shuffle=True, augment=Augment(), seed=2)
    whole = kind(synth_rows, config)
    expected = [batch for _ in range(2) for batch in whole]

    first = kind(synth_rows, config)
    done: list[Batch] = []
    state = first.state_dict()
    for batch in first:
        if len(done) == stop_after:
            break
        done.append(batch)
        state = first.state_dict()
    second = kind(synth_rows, config)
    second.load_state_dict(state)
    done += [*second, *second]
    assert [batch.ids.tolist() for batch in done] == [b.ids.tolist() for b in expected]
    for one, other in zip(done, expected, strict=True):
        assert torch.equal(one.clips, other.clips)


def test_a_state_of_another_seed_is_refused(synth_rows: list[Sample]) -> None:
    state = DaliLoader(synth_rows, LoaderConfig(spec=SMALL, seed=1)).state_dict()
    with pytest.raises(SpecError, match="began with seed 1, not 2"):
        DaliLoader(synth_rows, LoaderConfig(spec=SMALL, seed=2)).load_state_dict(state)


@pytest.mark.parametrize("kind", [DaliLoader, TorchLoader])
def test_one_bad_file_of_fifty_costs_one_clip(kind: Any, tmp_path: Path) -> None:
    paths = [videos.write_video(tmp_path / f"{n:02}", frames=12) for n in range(50)]
    rows = rows_of(paths)
    paths[17].write_bytes(paths[17].read_bytes()[:300])
    loader = kind(rows, LoaderConfig(spec=SMALL, batch_size=8, shuffle=True))
    sizes = [len(batch.ids) for batch in loader]
    assert sum(sizes) == 49
    assert len(loader) == len(sizes) == 7
    assert list(loader.report.failures) == [paths[17]]
    assert "1 files failed" in loader.report.describe()
    assert "17.avi" in loader.report.describe()


def test_a_damaged_frame_is_replaced_and_counted(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", codec="mjpeg", frames=40)
    rows = rows_of([path])
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data) - 3) if data[at : at + 3] == b"\xff\xd8\xff"]
    data[starts[39] : starts[39] + 2000] = bytes(2000)
    path.write_bytes(data)
    loader = DaliLoader(rows, LoaderConfig(spec=SMALL))
    assert len(list(loader)) == 1
    assert loader.report.damaged_frames == {path: 1}
    assert "1 damaged frames of 1 files" in loader.report.describe()


def test_a_broken_extracted_frame_costs_its_clip_alone(tmp_path: Path) -> None:
    paths = [write_frames(tmp_path / name, ".jpg") for name in "abc"]
    rows = rows_of(paths)
    for picture in paths[1].iterdir():
        picture.write_bytes(picture.read_bytes()[:200])
    loader = DaliLoader(rows, LoaderConfig(spec=SMALL))
    assert [batch.ids.tolist() for batch in loader] == [[0, 2]]
    assert list(loader.report.failures) == [paths[1]]


def test_an_epoch_of_bad_files_ends(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip")
    rows = rows_of([path])
    path.unlink()
    loader = DaliLoader(rows, LoaderConfig(spec=SMALL))
    assert list(loader) == []
    assert loader.report.failures == {path: "there is no such file"}


def test_what_no_file_is_to_blame_for_names_the_clip_all_the_same(
    synth_rows: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dali_pipelines.decode import pixels

    doomed = synth_rows[5].path

    def decode(path: Path, numbers: Any, **settings: Any) -> Any:
        if path == doomed:
            raise MemoryError("no room")
        return real(path, numbers, **settings)

    real = pixels.decode_wanted
    monkeypatch.setattr(pixels, "decode_wanted", decode)
    with pytest.raises(LoaderError, match=f"{re.escape(doomed.name)}.*no room"):
        list(DaliLoader(synth_rows, LoaderConfig(spec=SMALL, batch_size=2), num_threads=2))
    assert not [thread for thread in threading.enumerate() if "decode" in thread.name]


def test_a_killed_worker_is_an_error_that_names_the_clip(
    synth_rows: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dali_pipelines.loaders import torch_loader

    doomed = synth_rows[11].path

    def decode(path: Path, numbers: Any) -> Any:
        if path == doomed:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path, numbers)

    real = torch_loader.decode_in_turn
    monkeypatch.setattr(torch_loader, "decode_in_turn", decode)
    with pytest.raises(LoaderError, match=f"{re.escape(doomed.name)}: the worker process .* died"):
        list(TorchLoader(synth_rows, LoaderConfig(spec=SMALL, batch_size=3), num_workers=2))


@pytest.mark.slow
def test_workers_never_delete_the_dali_graphs_that_they_inherit(synth_master: Path) -> None:
    """A forked process lacks DALI's threads, and deleting a graph there would wait for them."""
    code = f"""
import gc, os, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from rows import SMALL, rows_of
from dali_pipelines.loaders.dali_loader import DaliLoader
from dali_pipelines.loaders.frame_cache import FrameCache
from dali_pipelines.loaders.loader_config import LoaderConfig
from dali_pipelines.loaders.torch_loader import TorchLoader
gc.disable()
rows = rows_of(sorted(Path({str(synth_master)!r}).rglob("*.avi")))[:6]
for _ in range(3):
    loader = DaliLoader(rows, LoaderConfig(spec=SMALL))
    list(loader)
    loader.itself = loader  # garbage that only the collector finds
    del loader
gc.set_threshold(1)
os.register_at_fork(after_in_child=gc.enable)
print(len(list(TorchLoader(rows, LoaderConfig(spec=SMALL, batch_size=2)))))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert result.stdout == "3\n", result.stderr


def test_leaving_a_loop_gives_everything_back(synth_rows: list[Sample]) -> None:
    loader = DaliLoader(synth_rows, LoaderConfig(spec=SMALL, batch_size=2))
    for _ in loader:
        break
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name.startswith(("decode", "ahead"))]
    assert len(list(loader)) == len(loader)  # and the next one is whole


@pytest.mark.slow
def test_epochs_leave_no_threads_files_or_memory_behind(synth_rows: list[Sample]) -> None:
    loader = DaliLoader(synth_rows, LoaderConfig(spec=SMALL, batch_size=5, augment=Augment()))

    def counts() -> tuple[int, ...]:
        folders = Path("/proc/self/fd"), Path("/proc/self/task")
        return tuple(len(list(folder.iterdir())) for folder in folders)

    for _ in range(2):
        list(loader)
    before, memory = counts(), _resident()
    for _ in range(10):
        list(loader)
    grown = [now - then for now, then in zip(counts(), before, strict=True)]
    # A library's pool may start one more thread late; whatever leaks does so in every epoch.
    assert max(grown) < 5
    assert _resident() < memory * 1.05


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dali_loader.DaliLoader", "torch_loader.TorchLoader"])
def test_ctrl_c_ends_the_process_and_its_children(
    kind: str, synth_master: Path, tmp_path: Path
) -> None:
    module, name = kind.split(".")
    code = f"""
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.path.insert(0, {str(Path(__file__).parent)!r})
from rows import SMALL, rows_of
from dali_pipelines.loaders.loader_config import LoaderConfig
from dali_pipelines.loaders.{module} import {name}
paths = sorted(Path({str(synth_master)!r}).rglob("*.avi"))
loader = {name}(rows_of(paths), LoaderConfig(spec=SMALL))
while True:
    for batch in loader:
        print(len(batch.ids), flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=900)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    deadline = time.monotonic() + 900
    while _group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _group(process.pid)


def _group(leader: int) -> list[str]:
    """Processes still alive in a process group."""
    found = subprocess.run(["pgrep", "-g", str(leader)], capture_output=True, text=True)
    return found.stdout.split()


@pytest.mark.gpu
@pytest.mark.parametrize("name", FILES)
def test_a_gpu_gives_the_same_clips(name: str, tmp_path: Path) -> None:
    rows = rows_of([FILES[name](tmp_path)])
    for config, most in (
        (LoaderConfig(spec=ClipSpec()), 8),
        (LoaderConfig(spec=SMALL, augment=JITTER, num_clips=1), 12),  # it strengthens colors
    ):
        loader = assert_loaders_agree(rows, config, most=most, gpu=0, decoder="dali")
        assert next(iter(loader)).clips.is_cuda


@pytest.mark.gpu
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_gpu_gives_the_same_extracted_frames(suffix: str, tmp_path: Path) -> None:
    rows = rows_of([write_frames(tmp_path / "clip", suffix)])
    assert_loaders_agree(rows, LoaderConfig(spec=SMALL, augment=JITTER), gpu=0)
