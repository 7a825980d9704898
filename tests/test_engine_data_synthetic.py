"""The synthetic dataset: HMDB51's layout to the letter, the same for a seed, and worth learning.

The last test is what the set is for: a network that sees single frames stays near chance under a
split by sources, the same network with a memory learns, and a split that ignores sources flatters.
"""

import hashlib
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from dali_pipelines.decode import clip_file
from dali_pipelines.decode.video_stream import ANY_METADATA
from dali_pipelines.sampling import plan_frames
from dali_pipelines.spec import ClipSpec
from engine.data import hmdb51_splits, manifest, sources, splits, synthetic
from engine.data.packed_avi import VOP_START
from engine.data.synthetic_video import FILM_PART_S, FPS, MOTIONS, SIZES, State
from engine.errors import UserError


def test_layout_and_names_are_hmdb51s(synth_master: Path) -> None:
    dataset = manifest.load(synth_master)
    assert len(dataset.clips) == 30
    assert dataset.class_names == ["move_left", "move_right", "turn_clockwise"]
    for clip in dataset.clips:
        path = Path(clip.path)
        assert path.parts[:2] == ("videos", clip.label)
        assert sources.hmdb51_source(path.stem, clip.label) == clip.source
        assert (clip.codec, clip.fps) == ("mpeg4", 30)
        assert (clip.width, clip.height) in SIZES
        assert 45 <= clip.frames <= 120
    for fold in hmdb51_splits.FOLDS:
        assert len(list((synth_master / hmdb51_splits.FOLDER).glob(f"*_split{fold}.txt"))) == 3
        parts = hmdb51_splits.read_fold(dataset, fold)
        assert set(parts) == {"train", "test"}


def test_videos_are_encoded_as_hmdb51(synth_master: Path) -> None:
    """One keyframe, single B-frames, each in the packet of a reference, and a filler."""
    dataset = manifest.load(synth_master)
    titles = set()
    for clip in dataset.clips:
        with av.open(str(synth_master / clip.path), **ANY_METADATA) as container:
            stream = container.streams.video[0]
            assert container.format.name == "avi"
            assert stream.codec_context.codec_tag == "DX50"
            titles.add(stream.metadata.get("title"))
            packets = [packet for packet in container.demux(stream) if packet.size]
        keyframes = [packet.size for packet in packets if packet.is_keyframe]
        assert len(keyframes) == 2
        assert keyframes[1] == packets[1].size == 1
        kinds = show(synth_master / clip.path)
        assert len(packets) == len(kinds) + 1
        assert kinds.count("I") == 1
        assert "BB" not in kinds
        assert "PP" in kinds.rstrip("P")
        assert 0.3 < kinds.count("B") / len(kinds) < 0.5
        assert sum(bytes(packet).count(VOP_START) == 2 for packet in packets) == kinds.count("B")
    assert titles == {None, "Pel\udcedcula"}


def test_frames_are_those_that_are_shown(synth_master: Path) -> None:
    for clip in manifest.load(synth_master).clips:
        assert clip.frames == len(show(synth_master / clip.path))


def test_the_size_belongs_to_the_source(synth_master: Path) -> None:
    sizes = defaultdict(set)
    clips = manifest.load(synth_master).clips
    for clip in clips:
        sizes[clip.source].add((clip.width, clip.height))
    assert all(len(each) == 1 for each in sizes.values())
    assert set.union(*sizes.values()) == set(SIZES)
    assert sum((clip.width, clip.height) == (320, 240) for clip in clips) > len(clips) / 2


@pytest.mark.parametrize("clips_per_class", [3, 50])
def test_every_set_has_several_sizes(clips_per_class: int) -> None:
    plans = synthetic.plan_clips(list(MOTIONS)[:2], clips_per_class, 0)
    counts = Counter(plan.size for plan in plans)
    assert set(counts) == set(SIZES)
    assert counts[320, 240] >= len(plans) / 2


def test_a_film_has_keyframes_on_its_way(tmp_path: Path) -> None:
    film = synthetic.make_folder(tmp_path / "new", num_classes=3)
    kinds = show(tmp_path / "new" / film.name)
    assert len(kinds) == 3 * FILM_PART_S * FPS
    assert 2 <= kinds.count("I") <= len(kinds) / FPS / 5
    with av.open(str(tmp_path / "new" / film.name)) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) == len(kinds) + 1


def show(path: Path) -> str:
    """What kinds of frames a full decode gives; whatever is wrong with one is an error."""
    kinds = ""
    with av.open(str(path), **ANY_METADATA) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"err_detect": "explode"}
        for packet in container.demux(stream):
            for frame in packet.decode():
                assert not frame.is_corrupt
                kinds += PictureType(frame.pict_type).name
    return kinds


@pytest.mark.slow
def test_the_seed_decides_every_byte(tmp_path: Path, synth_master: Path) -> None:
    def digests(root: Path) -> dict[str, str]:
        return {
            path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in root.rglob("*")
            if path.is_file()
        }

    same = synthetic.make_dataset(tmp_path / "same", num_classes=3, clips_per_class=10, seed=0)
    assert same.manifest == manifest.load(tmp_path / "same")
    synthetic.make_dataset(tmp_path / "other", num_classes=3, clips_per_class=10, seed=1)
    assert digests(tmp_path / "same") == digests(synth_master)
    assert digests(tmp_path / "other") != digests(synth_master)


def test_sources_are_shared_as_in_real_sets() -> None:
    plans = synthetic.plan_clips(list(MOTIONS)[:8], 50, 0)
    assert len({plan.file_name for plan in plans}) == 400
    classes = defaultdict(set)
    scenes = defaultdict(set)
    for plan in plans:
        classes[plan.source].add(plan.label)
        scenes[plan.source].add(plan.scene_seed)
    assert all(len(seeds) == 1 for seeds in scenes.values())
    assert Counter(map(len, classes.values())) == {1: 64, 2: 8}
    assert any(set("()&!#;[]+~@") & set(source) for source in classes)


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_keeps_the_figure_in_its_box(motion: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        start = State(x=rng.uniform(), y=rng.uniform(), size=rng.uniform())
        state = MOTIONS[motion](start, rng.uniform(0, 1.5), rng.uniform())
        assert all(0 <= value <= 1 for value in (state.x, state.y, state.size))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_classes": 1}, "`classes` takes 2 to 10, not 1"),
        ({"num_classes": 11}, "`classes` takes 2 to 10, not 11"),
        ({"clips_per_class": 2}, "`clips_per_class` must be at least 3"),
        ({"seed": -1}, "`seed` can't be negative"),
    ],
)
def test_what_cannot_be_drawn(values: dict[str, int], reason: str, tmp_path: Path) -> None:
    settings = {"num_classes": 3, "clips_per_class": 5, "seed": 0} | values
    with pytest.raises(UserError, match=reason):
        synthetic.make_dataset(tmp_path / "set", **settings)
    assert not any(tmp_path.iterdir())


NUM_FRAMES = 12
SIZE = (64, 48)
CLIPS_PER_CLASS = 50


@pytest.mark.slow
def test_only_motion_tells_the_classes_apart(tmp_path: Path) -> None:
    root = tmp_path / "set"
    synthetic.make_dataset(root, num_classes=8, clips_per_class=CLIPS_PER_CLASS, seed=0)
    dataset = manifest.load(root)
    spec = ClipSpec(num_frames=NUM_FRAMES)
    pixels = np.stack(
        [
            clip_file.read_frames(
                root / clip.path, plan_frames(clip.frames, clip.fps, spec).source_indices, size=SIZE
            )
            for clip in dataset.clips
        ]
    )
    grouped, naive = (
        np.array(scheme.assign(dataset)) for scheme in (splits.Grouped(), splits.Stratified())
    )
    chance = 1 / 8
    still = train_and_test(dataset, pixels, grouped, still=True)
    moving = train_and_test(dataset, pixels, grouped, still=False)
    flattered = train_and_test(dataset, pixels, naive, still=True)
    print(f"grouped: still {still:.2f}, moving {moving:.2f}; naive: still {flattered:.2f}")
    assert still < 2 * chance
    assert moving > 0.6
    assert flattered > still + 0.1


def train_and_test(dataset, pixels: np.ndarray, parts: np.ndarray, *, still: bool) -> float:
    """Accuracy of a four-layer CNN and an LSTM on all clips that aren't for training.

    `still` sees one frame of each clip, and all of its colors; they are shaken where motion is to
    be learned.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(0)
    clips_BTCHW = torch.from_numpy(pixels).permute(0, 1, 4, 2, 3)
    labels = torch.tensor([dataset.class_names.index(clip.label) for clip in dataset.clips])
    train, held_out = (torch.from_numpy(np.flatnonzero(part)) for part in (
        parts == "train", parts != "train"
    ))  # fmt: skip

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (3, 8, 16, 32, 64)
            layers: list[nn.Module] = []
            for wide, wider in pairwise(widths):
                layers += [nn.Conv2d(wide, wider, 3, 2, 1), nn.BatchNorm2d(wider), nn.ReLU()]
            self.cnn = nn.Sequential(*layers, nn.Flatten())
            self.lstm = nn.LSTM(64 * 4 * 3, 64, batch_first=True, bidirectional=True)
            self.head = nn.Linear(128, len(dataset.class_names))

        def forward(self, x_BTCHW: torch.Tensor) -> torch.Tensor:
            features = self.cnn(x_BTCHW.flatten(0, 1)).unflatten(0, x_BTCHW.shape[:2])
            return self.head(self.lstm(features)[0].mean(1))

    def prepare(index: torch.Tensor) -> torch.Tensor:
        x = clips_BTCHW[index].float() / 255 - 0.5
        if still:
            x = x[torch.arange(len(index)), torch.randint(NUM_FRAMES, (len(index),))][:, None]
        return x

    net, steps, batch = Net(), 150 if still else 240, 32
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        index = train[torch.randint(len(train), (batch,))]
        x = prepare(index)
        if not still:
            shake = torch.empty(batch, 1, 3, 1, 1)
            x = x * shake.uniform_(0.7, 1.3) + shake.clone().uniform_(-0.15, 0.15)
        loss = F.cross_entropy(net(x), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        guesses = torch.cat([net(prepare(index)).argmax(1) for index in held_out.split(64)])
    return float((guesses == labels[held_out]).float().mean())
