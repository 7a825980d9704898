"""Damages what others made, and shows it to whatever parses such: files are read or refused.

TARGETS says who parses what. A target gets the path of a damaged file, and raises where anything
happens but sound use and the documented error. It runs in a process of its own, with a limit on
memory and time, so that a decoder that crashes, hangs or swells is seen too.

    python tests/fuzz.py TARGET SECONDS FOLDER   # for long; what was found stays in FOLDER
"""

import contextlib
import os
import random
import re
import resource
import selectors
import struct
import subprocess
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MAX_MEMORY = 2 << 30
"""Above what the libraries take by themselves."""
MAX_SECONDS = 30.0
PAUSE = os.environ.get("FUZZ_PAUSE_WHILE", "")
"""A file: as long as it exists, nothing runs."""

NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62)
FIELDS = (
    "ftyp moov mvhd tkhd mdhd hdlr stsd avc1 hev1 mp4v av01 avcC stts ctts stsc stsz stco stss elst"
    " avih strh strf idx1 movi dmlh JUNK vprp"
).split()
IDS = [name.encode() for name in FIELDS] + [
    b"\x1a\x45\xdf\xa3", b"\x2a\xd7\xb1", b"\x44\x89", b"\xe0", b"\xb0", b"\xba", b"\x23\xe3\x83",
    b"\x00\x00\x01\xb3", b"\x00\x00\x01\xba", b"\x00\x00\x00\x01\x67", b"\x47\x40", b"FLV",
    b"Rar!", b"SQLite format 3", b"\xff\xc0", b"IHDR", b"frames", b'"', b",", b":", b"/",
]  # fmt: skip
"""After which a header's fields stand: sizes, durations, counts, clocks."""
WORDS = (
    b"", b"..", b"../../x", b"/etc/passwd", b"-1", b"1e300", b"nan", b"inf", b"0", b"9" * 30,
    b"9" * 5000, b"1e-300", b"x" * 300, b"x" * 200_000, b"\0", b'"', b"null", b"true", b"[]", b"{}",
    b"[" * 5000, b'"a"', b"1", b"\xff", b"\r", b"\xe2\x80\xa8", b"path", b"youtube_id",
)  # fmt: skip


def damaged(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    if b"\0" not in data and rng.random() < 0.6:
        return _reworded(data, rng)
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if not changed:
            break
        place = rng.randrange(len(changed))
        kind = rng.random()
        if kind < 0.25:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind < 0.35:
            end = place + rng.choice((1, 4, 64, 1024))
            changed[place:end] = rng.randbytes(len(changed[place:end]))
        elif kind < 0.45:
            del changed[rng.choice((place, -min(len(changed), 64), 0)) :][: rng.choice((1, 9, 999))]
            if rng.random() < 0.5:
                del changed[place:]
        elif kind < 0.55:
            other = rng.choice(others)
            begin = rng.randrange(len(other) + 1)
            changed[place:place] = other[begin : begin + rng.choice((4, 40, 4000))]
        elif kind < 0.6:
            changed[place : place + 8] = b""
        else:
            _overwrite(changed, rng)
    return bytes(changed)


def _reworded(data: bytes, rng: random.Random) -> bytes:
    """A text with other words and numbers between the same commas and brackets."""
    parts = re.split(rb"([\s,:{}\[\]]+)", data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        parts[rng.randrange(len(parts))] = rng.choice((*WORDS, rng.choice(parts)))
    return b"".join(parts)


def _overwrite(changed: bytearray, rng: random.Random) -> None:
    """A number of a header."""
    places = [place for each in rng.sample(IDS, 12) if (place := changed.find(each)) >= 0]
    place = rng.choice(places or [0]) + rng.randrange(48)
    form = rng.choice(("B", ">H", "<H", ">I", "<I", ">Q", "<Q"))
    size = struct.calcsize(form)
    number = rng.choice((*NUMBERS, rng.getrandbits(64))) & ((1 << 8 * size) - 1)
    changed[place : place + size] = struct.pack(form, number)


def _with_checksums(archive: bytes) -> bytes:
    """Of a RAR's headers, without which nobody looks at what they say."""
    changed = bytearray(archive)
    place = 7
    while place + 7 <= len(changed):
        _, flags, size = struct.unpack_from("<BHH", changed, place + 2)
        if size < 7:
            break
        struct.pack_into(
            "<H", changed, place, zlib.crc32(changed[place + 2 : place + size]) & 0xFFFF
        )
        has_data = flags & 0x8000 and place + 11 <= len(changed)
        place += size + (struct.unpack_from("<I", changed, place + 7)[0] if has_data else 0)
    return bytes(changed)


class Parser:
    """One target in a process of its own, which is begun anew when it has died."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Parser":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def show(self, path: Path) -> str:
        """`read`, `refused`, or what went wrong."""
        process = self._begun()
        assert process.stdin is not None
        process.stdin.write(f"{path}\n")
        process.stdin.flush()
        answer = self._line(MAX_SECONDS)
        if answer is None:
            self._end()
            return f"no answer for {MAX_SECONDS:g} s"
        if not answer:
            code = process.wait()
            self._process = None
            return f"the process died ({code})"
        return answer.strip().encode().decode("unicode_escape")

    def _begun(self) -> "subprocess.Popen[str]":
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__, self.target],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )  # fmt: skip
            assert self._line(120) == "ready\n"
        return self._process

    def _line(self, seconds: float) -> str | None:
        assert self._process is not None
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                return None
        return self._process.stdout.readline()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def hammer(
    target: str,
    seeds: list[Path],
    folder: Path,
    *,
    count: int = 0,
    seconds: float = 0.0,
    start: int = 0,
) -> tuple[Counter[str], dict[Path, str]]:
    """How many files were read and refused, and those that were neither, with what came."""
    whole = [(path.suffix, path.read_bytes()) for path in seeds]
    answers: Counter[str] = Counter()
    found: dict[Path, str] = {}
    end = time.monotonic() + seconds
    number = start
    with Parser(target) as parser:
        while number - start < count or time.monotonic() < end:
            while PAUSE and Path(PAUSE).exists():
                time.sleep(1)
                end += 1
            rng = random.Random(f"{target} {number}")
            suffix, data = whole[number % len(whole)]
            path = folder / f"{target}-{number}{suffix}"
            changed = damaged(data, [other for _, other in whole], rng)
            if target == "rar" and rng.random() < 0.8:
                changed = _with_checksums(changed)
            path.write_bytes(changed)
            answer = parser.show(path)
            if answer in ("read", "refused"):
                answers[answer] += 1
                path.unlink()
            else:
                found[path] = answer
            number += 1
    return answers, found


# The targets: each imports what it needs, and keeps it.

_refused = False


@contextlib.contextmanager
def refusing(error: type[Exception]) -> Iterator[None]:
    """What may be said of a damaged file."""
    global _refused
    try:
        yield
    except error:
        _refused = True


def manifest(path: Path) -> None:
    from engine.data import manifest
    from engine.errors import UserError

    path.rename(path.with_name(manifest.FILE_NAME))
    try:
        with refusing(UserError):
            root = path.parent
            found = manifest.load(root)
            for clip in found.clips:
                _inside(root / clip.path, root)
            _planned(found)
    finally:
        path.with_name(manifest.FILE_NAME).rename(path)


def _planned(found: Any) -> None:
    """What a row claims must not cost memory, nor ask for frames that it hasn't."""
    from dali_pipelines.augment import Augment
    from dali_pipelines.loaders.loader_config import LoaderConfig, Sample
    from dali_pipelines.spec import ClipSpec

    for clip in found.clips[:3]:
        if not clip.frames:
            continue
        row = Sample(
            id=0, path=found.root / clip.path, label=0, frames=clip.frames, fps=clip.fps,
            width=clip.width, height=clip.height,
        )  # fmt: skip
        for sampling in ("uniform", "equidistant", "random", "segments"):
            for short in ("loop", "hold", "lengthen-before", "lengthen-after"):
                spec = ClipSpec(num_frames=4, sampling=sampling, short=short, fps=25.0)  # type: ignore[arg-type]
                for augment in (None, Augment()):
                    for view in LoaderConfig(spec=spec, augment=augment).views(row, 0):
                        numbers = view.plan.source_indices
                        assert len(view.plan) == 4
                        assert numbers.min() >= 0
                        assert numbers.max() < clip.frames


def _inside(path: Path, root: Path) -> None:
    assert Path(os.path.normpath(path)).is_relative_to(root), path


def lists(path: Path) -> None:
    from engine.data.lists import read_lists
    from engine.errors import UserError

    root = path.parent / "clips"
    for name in ("a.mp4", "sub/b, c.mp4", "run/v_run_g01_c02.avi"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for skip_missing in (False, True):
        with refusing(UserError):
            for clip in read_lists(root, [path], skip_missing=skip_missing).found:
                _inside(root / clip.path, root)
                assert (root / clip.path).exists()
                assert clip.label


def splits(path: Path) -> None:
    from engine.data import hmdb51_splits
    from engine.data.manifest import Clip, Manifest
    from engine.errors import UserError

    folder = path.parent / hmdb51_splits.FOLDER
    folder.mkdir(exist_ok=True)
    (folder / "run_test_split1.txt").write_bytes(path.read_bytes())
    clips = tuple(Clip(path=f"run/{n}.avi", label="run", source="s", frames=1) for n in "ab")
    with refusing(UserError):
        roles = hmdb51_splits.read_fold(Manifest(root=path.parent, clips=clips), 1)
        assert len(roles) == 2
        assert set(roles) <= {"train", "test", ""}


def names(path: Path) -> None:
    from engine.labelling.discovery import FileFilter, listed

    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for item in listed(file, FileFilter(include=("*",), shard=(0, 1))):
            assert item.name
            assert item.size >= -1


def artifact(path: Path) -> None:
    from trt import artifact
    from trt.config import CONFIG, ArtifactConfig
    from trt.errors import CompileError

    folder = path.parent / "artifact"
    folder.mkdir(exist_ok=True)
    (folder / "payload").write_bytes(b"payload")
    (folder / CONFIG).write_bytes(path.read_bytes())
    with refusing(CompileError):
        config = artifact.check(folder)
        assert isinstance(config, ArtifactConfig)
        assert config.target.batches.min >= 1
        assert config.files.keys() == {"payload"}
        assert all(isinstance(name, str) for name in config.class_names)
        config.write(folder)
        assert ArtifactConfig.read(folder) == config


def checkpoint(path: Path) -> None:
    import json

    from engine.errors import UserError
    from engine.training import checkpoint

    folder = path.parent / "checkpoint"
    folder.mkdir(exist_ok=True)
    (folder / checkpoint.CONFIG).write_bytes(path.read_bytes())
    with refusing(UserError):
        config = checkpoint.load_config(folder)
        assert all(isinstance(name, str) for name in config.class_names)
        json.dumps(config.to_dict())


def state(path: Path) -> None:
    """A checkpoint's state, and weights from elsewhere."""
    from engine.errors import UserError
    from engine.models import weights
    from engine.training import checkpoint

    folder = path.parent / "checkpoint"
    folder.mkdir(exist_ok=True)
    (folder / checkpoint.STATE).write_bytes(path.read_bytes())
    for load in (lambda: checkpoint.load_state(folder), lambda: weights._read(path)):
        with refusing(UserError):
            assert isinstance(load(), dict)


def video(path: Path) -> None:
    import numpy as np

    from dali_pipelines.decode import clip_file
    from dali_pipelines.decode.wanted_frames import decode_wanted
    from dali_pipelines.errors import VideoError
    from dali_pipelines.loaders.clip_reader import ClipReader
    from dali_pipelines.loaders.loader_config import LoaderConfig, Sample
    from dali_pipelines.loaders.windows import plan_windows, read_windows
    from dali_pipelines.spec import ClipSpec

    spec = ClipSpec(num_frames=4, resize=32, crop=32)
    health = clip_file.check(path)
    assert health.status in ("ok", "bad")
    with refusing(VideoError):
        windows = plan_windows(path, window_s=0.3, stride_s=0.2)
        assert windows[-1].is_last
        for read in read_windows(windows[:50], spec):
            assert [frame.dtype for frame in read.frames] == [np.uint8] * 4
            assert {min(frame.shape[:2]) for frame in read.frames} == {32}
            assert 0 <= read.window.start_s <= read.window.end_s
    facts = None
    with refusing(VideoError):
        facts = clip_file.probe(path)
    if facts is None:
        return
    assert facts.frames >= 1
    assert min(facts.width, facts.height) >= 1
    wanted = np.unique(np.linspace(0, min(facts.frames, 1 << 20) - 1, 3).astype(np.int64))
    with refusing(VideoError):
        assert [item.number for item in decode_wanted(path, wanted)] == wanted.tolist()
    row = Sample(id=0, path=path, label=0, frames=facts.frames, fps=facts.fps, width=facts.width,
                  height=facts.height, codec=facts.codec)  # fmt: skip
    with refusing(VideoError):
        read_clip = ClipReader(config=LoaderConfig(spec=spec)).read(row, 0)
        assert [min(frame.shape[:2]) for frame in read_clip.sources] == [32] * 4


def frames(path: Path) -> None:
    """Wanted frames against decoding all of the file, which is what they are to be equal to."""
    import numpy as np
    import videos

    from dali_pipelines.decode import clip_file
    from dali_pipelines.decode.remux import cut_part
    from dali_pipelines.decode.wanted_frames import decode_in_turn, decode_wanted
    from dali_pipelines.errors import VideoError

    shown, is_sound = videos.every_frame_as_far_as_it_decodes(path)
    is_sound &= (shown, True) == videos.every_frame_as_far_as_it_decodes(path)
    with refusing(VideoError):
        facts = clip_file.probe(path)
        if facts.codec not in videos.CODECS:
            return  # others may refer to what comes before a keyframe
        checked = clip_file.check(path).facts
        assert not is_sound or (checked and checked.frames == len(shown))
        last = max(0, min(facts.frames, len(shown)) - 1)
        wanted = np.unique(np.linspace(0, last, 5).astype(np.int64))
        sound: list[dict[int, Any]] = []
        for decode in (decode_wanted, decode_in_turn):
            found = list(decode(path, wanted))
            assert [item.number for item in found] == wanted.tolist()
            assert not (is_sound and any(item.is_damaged for item in found))
            sound.append(
                {each.number: videos.planes_of(each.frame) for each in found if not each.is_damaged}
            )
        if checked is None or checked.frames != facts.frames:
            return  # some are dropped without a word, and `check` calls the file bad
        for number in sound[0].keys() & sound[1].keys():
            if is_sound:
                assert sound[0][number] == sound[1][number] == shown[number]
        part = cut_part(path, wanted)
        assert part is None or part.numbers.keys() == set(wanted.tolist())


def image(path: Path) -> None:
    """An extracted frame."""
    import numpy as np

    from dali_pipelines.decode import clip_file
    from dali_pipelines.errors import VideoError

    folder = path.parent / "frames"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / f"frame_1{path.suffix}").write_bytes(path.read_bytes())
    assert clip_file.check(folder).status in ("ok", "bad")
    with refusing(VideoError):
        facts = clip_file.probe(folder)
        (frame,) = clip_file.read_frames(folder, np.array([0]))
        assert frame.shape == (facts.height, facts.width, 3)


def journal(path: Path) -> None:
    from engine.errors import UserError
    from engine.labelling import writers
    from engine.labelling.discovery import Item
    from engine.labelling.journal import Journal

    for end in ("-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)
    out = path.parent / "out"
    style = writers.OutputStyle(class_names=["fall", "run", "wave"], root=path.parent)
    outputs = writers.Outputs(labels=out, format="csv", failures=path.parent / "failures.csv",
                              segments=path.parent / "segments.csv")  # fmt: skip
    try:
        with refusing(UserError):
            with Journal(path) as found:
                found.bind({"model": "m", "classes": style.class_names}, mix=False)
                item = Item(name="b.mp4", path=Path("b.mp4"), size=1, mtime_ns=2)
                found.status(item, "m")
                found.write([], [(item, "odd")], "m")
                writers.write(found, outputs, style)
            with Journal(path.with_name("other")) as other:
                other.merge_from(path)
    finally:
        for written in (*path.parent.glob("other*"), *outputs.tables):
            written.unlink(missing_ok=True)
        for end in ("-wal", "-shm"):
            Path(f"{path}{end}").unlink(missing_ok=True)


def rar(path: Path) -> None:
    import shutil

    from engine.data.archives import unpack
    from engine.errors import UserError

    inside = path.parent / "unpacked"
    inside.mkdir()
    before = sorted(path.parent.iterdir())
    try:
        with refusing(UserError):
            unpack(path, lambda name: inside / name.name if name.suffix == ".avi" else None)
    finally:
        after = sorted(path.parent.iterdir())
        assert not any(each.is_symlink() for each in inside.iterdir())
        shutil.rmtree(inside)
    assert before == after


def frame_cache(path: Path) -> None:
    """The damaged file lies where the cache keeps its frames."""
    import numpy as np

    from dali_pipelines.loaders.frame_cache import FrameCache

    clip = path.parent / "clip"
    clip.touch()
    os.utime(clip, (1, 1))
    cache = FrameCache(path.parent / "cache", max_gb=0.1)
    entry = cache._entry(clip, 10)
    entry.write_bytes(path.read_bytes())
    frames = cache.get(clip, 10, [1, 4])
    assert frames is None or [frame.shape[2] for frame in frames] == [3, 3]
    cache.put(clip, 10, [1], [np.zeros((10, 12, 3), np.uint8)])
    assert cache.get(clip, 10, [1]) is not None


Target = Callable[[Path], None]
TARGETS: dict[str, Target] = {
    each.__name__: each
    for each in (
        manifest, lists, splits, names, artifact, checkpoint, state, video, frames, image, journal,
        rar, frame_cache,
    )
}  # fmt: skip


def seeds_of(target: str, folder: Path) -> list[Path]:
    """Sound files, made anew."""
    folder.mkdir(parents=True, exist_ok=True)
    return list(getattr(sys.modules[__name__], f"_{target}_seeds")(folder))


def _text(folder: Path, *texts: str) -> Iterator[Path]:
    for number, text in enumerate(texts):
        path = folder / f"{number}.txt"
        path.write_text(text)
        yield path


def _manifest_seeds(folder: Path) -> Iterator[Path]:
    header = "path,label,source,split,frames,fps,width,height,codec\n"
    rows = (
        "videos/run/a.avi,run,film,train,90,30.0,320,240,mpeg4\n"
        '"b, ü.mp4",walk,film 2,,3,29.97,160,120,h264\nframes,run,x,val,16,0.0,64,64,jpeg\n'
    )
    yield from _text(folder, header + rows, header + rows.splitlines()[0])


def _lists_seeds(folder: Path) -> Iterator[Path]:
    yield from _text(
        folder,
        'note,path,label,split,source\nx,a.mp4,run,train,film\ny,"sub/b, c.mp4",walk,val,\n',
        "a.mp4,run\n",
        "label,youtube_id,time_start,time_end,split\nrun,v_run_g01,1,11,train\n",
        "a.mp4 2\nrun/v_run_g01_c02.avi 3\n",
        "a.mp4 118 2\nrun/v_run_g01_c02 9 3\n",
    )


def _splits_seeds(folder: Path) -> Iterator[Path]:
    yield from _text(folder, "a.avi 1\nb.avi 2\n", "a.avi 0 \r\nb.avi 1 \r\n")


def _names_seeds(folder: Path) -> Iterator[Path]:
    yield from _text(folder, "a.mp4\n/some where/b ü.mp4\n\n../c.avi\n", "d.mp4")


def _artifact_seeds(folder: Path) -> Iterator[Path]:
    from trt import artifact
    from trt.config import CONFIG, ArtifactConfig, Target

    made = folder / "artifact"
    made.mkdir()
    (made / "payload").write_bytes(b"payload")
    config = ArtifactConfig(
        backend="eager", asked="fp32", target=Target(fp32_layers=("head",)), clip={"num_frames": 4},
        model={"family": "vivit"}, class_names=["a", "b"], source="0" * 64, chosen_by="top1",
        key="k", device="cpu", versions={"torch": "2.14"}, parity={"max": 0.1}, build={"s": 1.0},
    )  # fmt: skip
    artifact.seal(made, config)
    yield made / CONFIG


def _checkpoint_seeds(folder: Path) -> Iterator[Path]:
    import json

    from engine.models.registry import ModelSpec
    from engine.training.checkpoint import CheckpointConfig

    for family in ("cnn-lstm", "timesformer"):
        model, clip = ModelSpec.of_preset(family, "small", 3)
        config = CheckpointConfig(model=model, clip=clip, class_names=["a", "b", "ü"], step=3,
                        metrics={"top1": 0.5}, versions={"torch": "2"})  # fmt: skip
        path = folder / f"{family}.json"
        path.write_text(json.dumps(config.to_dict()))
        yield path


def _state_seeds(folder: Path) -> Iterator[Path]:
    import torch
    from safetensors.torch import save_file

    values = {"step": 3, "m": torch.ones(2), "o": {"state": [torch.zeros(3), None, 0.5]}}
    torch.save(values, folder / "new.pt")
    torch.save(values, folder / "old.pt", _use_new_zipfile_serialization=False)
    save_file({"a": torch.ones(3), "b": torch.zeros(2, 2)}, folder / "w.safetensors")
    yield from sorted(folder.iterdir())


def _video_seeds(folder: Path) -> Iterator[Path]:
    import videos

    for codec, suffix in (
        ("mpeg4", "avi"), ("h264", "mp4"), ("vp9", "mkv"), ("vp8", "webm"), ("h264", "mov"),
        ("h264", "ts"), ("mpeg2video", "mpg"), ("wmv2", "wmv"), ("mjpeg", "avi"), ("hevc", "mp4"),
        ("mpeg4", "mp4"), ("h264", "mkv"), ("h264", "flv"), ("av1", "mp4"), ("mpeg2video", "ts"),
        ("h264", "avi"),
    ):  # fmt: skip
        path = folder / f"{codec}.{suffix}"
        yield videos.write_video(path, codec=codec, frames=16, size=(64, 48), fps=20)


def _frames_seeds(folder: Path) -> Iterator[Path]:
    """Mostly what has an order of its own: packed and reordered pictures.

    FFmpeg's decoder of VP8 reads what lies behind a short packet, and that of MJPEG guesses fields
    from a wrong height: what they show of damaged files is chance.
    """
    import videos

    for number, (max_b_frames, closed_gop, size) in enumerate(
        [(1, True, (64, 48)), (2, True, (49, 33)), (1, False, (64, 48)), (2, False, (64, 48))]
    ):
        path = folder / f"packed{number}.avi"
        yield videos.write_packed(
            path, frames=20, gop=8, max_b_frames=max_b_frames, closed_gop=closed_gop, size=size,
            draw=videos.noisy,
        )  # fmt: skip
    for suffix in ("mkv", "mp4"):
        yield videos.remux(folder / "packed1.avi", folder / f"packed.{suffix}")
    for codec, suffix in (
        ("mpeg4", "avi"), ("mpeg4", "mp4"), ("h264", "mp4"), ("h264", "ts"), ("h264", "avi"),
        ("hevc", "mkv"), ("mpeg2video", "ts"), ("vp9", "webm"),
    ):  # fmt: skip
        path = folder / f"{codec}.{suffix}"
        yield videos.write_video(
            path, codec=codec, frames=20, size=(64, 48), gop=8, draw=videos.noisy
        )


def _image_seeds(folder: Path) -> Iterator[Path]:
    import videos
    from PIL import Image

    for name in ("a.jpg", "b.png"):
        Image.fromarray(videos.numbered(5, 64, 48)).save(folder / name)
        yield folder / name


def _journal_seeds(folder: Path) -> Iterator[Path]:
    import numpy as np

    from engine.labelling.discovery import Item
    from engine.labelling.journal import Journal, WindowAnswer

    items = [Item(name=name, path=Path(name), size=1, mtime_ns=2) for name in ("a.mp4", "b.mp4")]
    with Journal(folder / "journal") as made:
        made.bind({"model": "m", "classes": ["fall", "run", "wave"]}, mix=False)
        probabilities = np.array([0.1, 0.2, 0.7], np.float32)
        answers = [
            WindowAnswer(item=item, number=n, start_s=2.0 * n, end_s=2.0 * n + 2, is_last=n == 1,
                   probabilities=probabilities)
            for item in items for n in range(2)
        ]  # fmt: skip
        made.write(answers, [(Item(name="c", path=Path("c"), size=3, mtime_ns=4), "empty")], "m")
    yield folder / "journal"


def _rar_seeds(folder: Path) -> Iterator[Path]:
    import rar as archives

    members = {"run/a.avi": b"one" * 50, "../../b.avi": b"two", "c.txt": b"three"}
    yield archives.write_rar(folder / "stored.rar", members)
    yield archives.write_rar(folder / "packed.rar", members, method=archives.COMPRESSED)


def _frame_cache_seeds(folder: Path) -> Iterator[Path]:
    import numpy as np

    from dali_pipelines.loaders.frame_cache import _write

    frames = {number: np.full((10, 12, 3), number, np.uint8) for number in (1, 4, 9)}
    _write(folder / "entry", frames)
    yield folder / "entry"


def _serve(target: str) -> None:
    """Reads paths from standard input, and says of each what came."""
    sys.path.insert(0, str(Path(__file__).parent))
    run = TARGETS[target]
    if target in ("video", "frames", "state", "checkpoint"):
        import torch

        torch.set_num_threads(1)
    if target in ("video", "frames"):
        pass
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MAX_MEMORY,) * 2)
    print("ready", flush=True)
    for line in sys.stdin:
        global _refused
        _refused = False
        try:
            run(Path(line.rstrip("\n")))
            print("refused" if _refused else "read", flush=True)
        except BaseException:
            print(traceback.format_exc().encode("unicode_escape").decode(), flush=True)


def _main(target: str, seconds: str, folder: str) -> None:
    place = Path(folder)
    seeds = seeds_of(target, place / f"seeds-{target}")
    work = place / target
    work.mkdir(parents=True, exist_ok=True)
    start = int(os.environ.get("FUZZ_START", "0"))
    answers, found = hammer(target, seeds, work, seconds=float(seconds), start=start)
    print(f"{target}: {answers['read']:,} read, {answers['refused']:,} refused, {len(found)} found")
    kinds: dict[str, list[Path]] = {}
    for path, trouble in found.items():
        kinds.setdefault(trouble.strip().splitlines()[-1][:60], []).append(path)
    for kind, paths in kinds.items():
        print(f"-- {len(paths)} × {kind}\n   {paths[0]}\n{found[paths[0]][-1500:]}")


if __name__ == "__main__":
    _serve(sys.argv[1]) if len(sys.argv) == 2 else _main(*sys.argv[1:])
