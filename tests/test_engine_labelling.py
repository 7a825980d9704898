"""The parts of labelling: the walk, the journal, segments, files; laws by hypothesis."""

import contextlib
import csv
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import numpy as np
import pytest
import torch
import videos
from hypothesis import given
from hypothesis import strategies as st

from dali_pipelines.loaders import window_loader
from dali_pipelines.loaders.loader_config import LoaderReport
from dali_pipelines.loaders.window_loader import WindowLoader
from dali_pipelines.spec import ClipSpec
from engine.batched_predictor import BatchedPredictor
from engine.errors import UserError
from engine.labelling import journal_file, writers
from engine.labelling.discovery import FileFilter, Item, below, item_of, listed
from engine.labelling.journal import Journal, WindowAnswer
from engine.labelling.label import LabelSettings, Progress, label
from engine.labelling.pieces import Piece
from engine.labelling.segments import segments
from engine.labelling.source import Source

CLASSES = ["fall", "run", "wave"]


def names(items: Any) -> list[str]:
    return [item.name for item in items]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    for name in ("b.mp4", "a/x.AVI", "a/deep/er/y.webm", "notes.txt", ".hidden.mp4", "c/1.mp4"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    for number in range(3):
        path = root / "frames" / f"frame_{number:03}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return root


def test_the_walk_finds_videos_and_folders_of_frames_at_any_depth(tree: Path) -> None:
    assert names(below(tree, FileFilter())) == ["a/deep/er/y.webm", "a/x.AVI", "b.mp4", "c/1.mp4",
                                            "frames"]  # fmt: skip


def test_a_loop_of_links_is_walked_once_and_a_link_aside_is_followed(
    tree: Path, tmp_path: Path
) -> None:
    (tree / "a" / "up").symlink_to(tree)
    (tree / "circle.mp4").symlink_to(tree / "circle.mp4")
    (tree / "nowhere.mp4").symlink_to(tmp_path / "nothing")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "z.mp4").write_bytes(b"x")
    (tree / "aside").symlink_to(elsewhere)
    (tree / "folder").symlink_to(tmp_path / "nothing")
    skipped: dict[str, str] = {}
    found = list(below(tree, FileFilter(), skipped))
    assert names(found) == ["a/deep/er/y.webm", "a/x.AVI", "aside/z.mp4", "b.mp4", "c/1.mp4",
                            "circle.mp4", "frames", "nowhere.mp4"]  # fmt: skip
    assert [each.name for each in found if not each.is_there] == ["circle.mp4", "nowhere.mp4"]
    assert skipped == {"folder": "broken link"}
    skipped.clear()
    list(below(tree, FileFilter(exclude=("folder/*",)), skipped))
    assert skipped == {}


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions don't hold for the administrator, as whom tests may run."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_may_not_be_read_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        for name in ("ours/a.mp4", "theirs/b.mp4", "lost+found/c.mp4"):
            (root / name).parent.mkdir()
            (root / name).write_bytes(b"x")
        (root / "theirs").chmod(0)
        skipped: dict[str, str] = {}
        with as_nobody():
            assert names(below(root, FileFilter(), skipped)) == ["ours/a.mp4"]
            assert skipped == {"theirs": "Permission denied"}
            (root / "theirs").stat()
        with as_nobody(), pytest.raises(UserError, match="can't be read"):
            list(below(root / "theirs", FileFilter()))
        (root / "theirs").chmod(0o755)


def test_what_is_in_a_folder_that_cannot_be_read_stays_in_the_results(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        for name in ("a.mp4", "b/b.mp4", "b", "bc/c.mp4", "d.mp4"):
            journal.write([answer(item(name), 0, 0.1, 0.9)], [], "m")
        assert names(journal.noting([item("a.mp4")])) == ["a.mp4"]
        assert journal.leave_out_others(unread=["b"])
        assert journal.num_left_out() == 2
        assert not journal.leave_out_others(unread=["b"])  # as before
        assert list(journal.names()) == ["a.mp4", "b", "b/b.mp4"]
        assert journal.counts() == (3, 0)
        journal.leave_out_nothing()
        assert journal.counts() == (5, 0)


def test_patterns_choose(tree: Path) -> None:
    assert names(below(tree, FileFilter(include=("a/*",)))) == ["a/deep/er/y.webm", "a/x.AVI"]
    assert names(below(tree, FileFilter(include=("a/*",), exclude=("*.AVI",)))) == [
        "a/deep/er/y.webm"
    ]


def test_a_list_may_begin_with_a_byte_order_mark(tree: Path) -> None:
    (found,) = listed([f"\ufeff{tree}/b.mp4\n"], FileFilter())
    assert found.is_there
    assert found.name == f"{tree}/b.mp4"


def test_lists_name_what_is_not_there(tree: Path) -> None:
    found = list(listed([f"{tree}/b.mp4\n", "\n", "gone.mp4\n"], FileFilter()))
    assert [item.size for item in found] == [1, -1]


@given(st.lists(st.text(min_size=1), unique=True), st.integers(1, 7))
def test_shards_deal_every_name_once(given_names: list[str], count: int) -> None:
    dealt = [
        [name for name in given_names if FileFilter(shard=(number, count)).takes(name)]
        for number in range(count)
    ]
    assert sorted(chain.from_iterable(dealt)) == sorted(given_names)


def answer(item: Item, number: int, *shares: float, last: bool = True) -> WindowAnswer:
    return WindowAnswer(
        item=item, number=number, start_s=2.0 * number, end_s=2.0 * number + 2,
        probabilities=np.array(shares, np.float32), is_last=last,
    )  # fmt: skip


def item(name: str, size: int = 1, mtime_ns: int = 1) -> Item:
    return Item(name=name, path=Path(name), size=size, mtime_ns=mtime_ns)


def test_a_journal_knows_what_is_done_and_what_changed(tmp_path: Path) -> None:
    one, two, three = item("one"), item("two"), item("three")
    with Journal(tmp_path / "j") as journal:
        journal.write([answer(one, 0, 0.1, 0.9)], [(three, "broken")], "m")
        journal.write([answer(two, 0, 0.1, 0.9, last=False)], [], "m")
    with Journal(tmp_path / "j") as journal:
        assert journal.status(one, "m") == (True, 0)
        assert journal.status(two, "m") == (False, 1)
        assert journal.status(three, "m") == (True, 0)
        assert journal.counts() == (1, 1)
        assert journal.status(item("one", size=2), "m") == (False, 0)
        assert journal.status(item("two", mtime_ns=2), "m") == (False, 0)
        assert journal.status(item("one", size=-1, mtime_ns=0), "m") == (True, 0)  # away
        assert journal.status(two, "m") == (False, 1)  # a look changes nothing
        assert journal.counts() == (1, 1)
        journal.forget_failures()
        assert journal.status(three, "m") == (False, 0)


def test_windows_of_one_file_are_answered_by_one_model(tmp_path: Path) -> None:
    two = item("two")
    with Journal(tmp_path / "j") as journal:
        journal.write([answer(two, 0, 0.2, 0.8, last=False)], [], "m")
        assert journal.status(two, "m") == (False, 1)
        assert journal.status(two, "other") == (False, 0)
        journal.write([answer(two, 0, 0.9, 0.1, last=False)], [], "other")
        journal.write([answer(two, 1, 0.7, 0.3)], [], "other")
        (found,) = journal.labelled()
        firsts = [each[0] for _, _, each in found.windows]
        assert firsts == pytest.approx([0.9, 0.7])


def test_old_answers_go_when_new_ones_come(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.write([answer(item("one"), n, 0.1, 0.9, last=n == 2) for n in range(3)], [], "m")
        changed = item("one", size=2)
        assert journal.status(changed, "m") == (False, 0)
        assert [len(each.windows) for each in journal.labelled()] == [3]
        journal.write([answer(changed, 0, 0.8, 0.2)], [], "m")
        assert [len(each.windows) for each in journal.labelled()] == [1]


def test_a_look_at_a_copy_leaves_no_trace(tmp_path: Path) -> None:
    code = (
        "import os; from pathlib import Path; from test_engine_labelling import Journal, fill\n"
        f"journal = Journal(Path({str(tmp_path / 'j')!r})); fill(journal); os._exit(9)"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent)
    assert killed.returncode == 9
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "j-wal" in before
    with Journal.copy_of(tmp_path / "j") as journal:
        assert journal.counts() == (2, 1)
        journal.forget_failures()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_journal_that_is_written_is_neither_copied_nor_removed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from engine.labelling.journal import Journal\n"
        f"with Journal(Path({str(tmp_path / 'j')!r})) as journal:\n"
        "    journal.bind({'model': 'm'}, mix=False); print('open', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"open\n"
    with pytest.raises(UserError, match="written by another run"), Journal.copy_of(tmp_path / "j"):
        pass
    with pytest.raises(UserError, match="written by another run"):
        journal_file.remove(tmp_path / "j")
    other.communicate(b"")
    journal_file.remove(tmp_path / "j")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_fails_midway_leaves_nothing_but_its_reason(tmp_path: Path) -> None:
    one = item("one")
    with Journal(tmp_path / "j") as journal:
        journal.write([answer(one, 0, 0.1, 0.9, last=False)], [], "m")
        journal.write([], [(one, "cut short")], "m")
        assert list(journal.labelled()) == []
        assert list(journal.failures()) == [("one", "cut short")]


def test_a_journal_refuses_another_model_unless_told(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.bind({"model": "m", "window": None}, mix=False)
        journal.bind({"model": "m", "window": None}, mix=False)
        with pytest.raises(UserError, match="another model: pass `fresh=True`"):
            journal.bind({"model": "other", "window": None}, mix=False)
        journal.bind({"model": "other", "window": None}, mix=True)
        with pytest.raises(UserError, match="with window None, not 2"):
            journal.bind({"model": "other", "window": 2}, mix=True)


def test_one_run_writes_at_a_time_and_what_is_no_journal_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.labelling.journal.BUSY_S", 0.1)
    with Journal(tmp_path / "j") as journal:
        journal.bind({"model": "m"}, mix=False)
        with pytest.raises(UserError, match="written by another run"):
            Journal(tmp_path / "j")
    (tmp_path / "no").write_bytes(b"something else entirely, and long enough to be looked at" * 99)
    with pytest.raises(UserError, match="is not a journal"):
        Journal(tmp_path / "no")
    with pytest.raises(UserError, match="can't be used"):
        Journal(tmp_path / "missing" / "j")


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.write([answer(item("one"), 0, 0.1, 0.9)], [], "m")
        pages = journal._base.execute("PRAGMA page_count").fetchone()[0]
        journal._base.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own full disk
        many = [answer(item(f"{number:05}"), 0, *[0.1] * 99) for number in range(999)]
        with pytest.raises(UserError, match="disk is full: free some space"):
            journal.write(many, [], "m")
    with Journal(tmp_path / "j") as journal:
        assert [each.name for each in journal.labelled()] == ["one"]
        journal.write(many, [], "m")
        assert journal.counts() == (1000, 0)


def test_names_of_any_bytes_go_through(tmp_path: Path) -> None:
    odd = os.fsdecode(b'caf\xe9 \r\n,".mp4')
    with Journal(tmp_path / "j") as journal:
        journal.write([answer(item(odd), 0, 0.2, 0.1, 0.7)], [], "m")
        style = writers.OutputStyle(class_names=CLASSES, root=tmp_path)
        for name in ("labels.csv", "labels.jsonl"):
            out = writers.Outputs(
                labels=tmp_path / name, format=writers.format_of(Path(name), None),
                failures=tmp_path / "failures.csv", segments=tmp_path / "segments.csv",
                subtitles=tmp_path / "vtt",
            )  # fmt: skip
            writers.write(journal, out, style)
    with (tmp_path / "labels.csv").open(newline="", errors="surrogateescape") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == odd
    assert (row["label"], row["confidence"]) == ("wave", "0.7000")


def fill(journal: Journal) -> None:
    journal.bind({"model": "m"}, mix=False)
    journal.write(
        [
            answer(item("b.mp4"), 0, 0.2, 0.7, 0.1, last=False),
            answer(item("b.mp4"), 1, 0.6, 0.2, 0.2),
            answer(item("a/a.mp4"), 0, 0.1, 0.1, 0.8),
        ],
        [(item("z.mp4"), "the file is empty")],
        "m",
    )


@pytest.mark.parametrize("name", list(writers.FORMATS))
def test_every_format_says_the_same(name: str, tmp_path: Path) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow")
    style = writers.OutputStyle(class_names=CLASSES, root=tmp_path, min_confidence=0.5, top_k=2)
    outputs = writers.Outputs(
        labels=tmp_path / "out", format=name, failures=tmp_path / "failures.csv",
        segments=tmp_path / "segments.csv", subtitles=tmp_path / "vtt",
    )  # fmt: skip
    with Journal(tmp_path / "j") as journal:
        fill(journal)
        writers.write(journal, outputs, style)
    found = read(tmp_path / "out", name)
    assert found == [("a/a.mp4", "wave", 0.8), ("b.mp4", "run", 0.45)]
    failures = (tmp_path / "failures.csv").read_text()
    assert failures == "path,reason\nz.mp4,the file is empty\n"
    assert (tmp_path / "segments.csv").read_text().splitlines() == [
        "path,start_s,end_s,label,confidence", "a/a.mp4,0.0,2.0,wave,0.8",
        "b.mp4,0.0,2.0,run,0.7", "b.mp4,2.0,4.0,fall,0.6",
    ]  # fmt: skip
    assert (tmp_path / "vtt" / "b.vtt").read_text() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nrun (70%)\n"
        "\n00:00:02.000 --> 00:00:04.000\nfall (60%)\n"
    )


def read(path: Path, name: str) -> list[tuple[str, str, float]]:
    if name == "csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["review"] for row in rows] == ["", "yes"]
        assert rows[1]["top"] == "run:0.4500 fall:0.4000"
        return [(row["path"], row["label"], float(row["confidence"])) for row in rows]
    if name == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert rows[1]["segments"][1]["label"] == "fall"
        return [(row["path"], row["label"], row["confidence"]) for row in rows]
    if name == "parquet":
        from pyarrow import parquet

        rows = parquet.read_table(path).to_pylist()
        assert rows[0]["windows"] == 1
        return [(row["path"], row["label"], row["confidence"]) for row in rows]
    found = json.loads(path.read_text())
    if name == "labelstudio":
        here = quote(path.parent.name)
        return [
            (
                unquote(each["data"]["video"].removeprefix(f"/data/local-files/?d={here}/")),
                each["predictions"][0]["result"][0]["value"]["choices"][0],
                each["predictions"][0]["score"],
            )
            for each in found
        ]
    return [
        (
            str(Path(each["filepath"]).relative_to(path.parent)),
            each["prediction"]["label"],
            each["prediction"]["confidence"],
        )
        for each in found["samples"]
    ]


def write_all(
    folder: Path, videos: list[str], style: writers.OutputStyle, name: str = "csv"
) -> Path:
    """One answer for each video, all the first class."""
    with Journal(folder / "j") as journal:
        journal.write([answer(item(each), 0, 0.8, 0.1, 0.1) for each in videos], [], "m")
        outputs = writers.Outputs(
            labels=folder / "out", format=name, failures=folder / "failures.csv",
            subtitles=folder / "vtt",
        )  # fmt: skip
        writers.write(journal, outputs, style)
    return folder / "vtt"


def test_videos_of_one_stem_get_subtitles_of_their_own(tmp_path: Path) -> None:
    style = writers.OutputStyle(class_names=CLASSES, root=tmp_path)
    names = ["x.avi", "x.mp4", "day.01", "day.02", "alone.mp4", "f", "f.mp4", "a/x.mp4", "../b.mp4",
             "A/E.mp4", "a/e.mp4", "film.mp4", "film.mp4.mkv", "n" * 250 + ".mp4",
             ".."]  # fmt: skip
    folder = write_all(tmp_path, names, style)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {
        "x.avi.vtt", "x.mp4.vtt", "day.01.vtt", "day.02.vtt", "alone.vtt", "f.mp4.vtt",
        "f.252f10c83610ebca.vtt", "A/E.mp4.2ffbcccbc8fb325e.vtt", "a/e.mp4.402123ef8d8813f2.vtt",
        "a/x.vtt", "b.vtt", "film.vtt", "film.mp4.mkv.vtt", "n" * 250 + ".vtt", "video.vtt",
    }  # fmt: skip


def test_a_class_name_forges_no_subtitles(tmp_path: Path) -> None:
    odd = "run\n\n00:00:00.000 --> 00:09:00.000\n<b>fall&"
    style = writers.OutputStyle(class_names=[odd, "b", "c"], root=tmp_path)
    (path,) = write_all(tmp_path, ["x.mp4"], style).iterdir()
    assert path.read_text() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n"
        "run 00:00:00.000 --&gt; 00:09:00.000 &lt;b&gt;fall&amp; (80%)\n"
    )


def test_addresses_for_label_studio_hold_any_name(tmp_path: Path) -> None:
    name, outside = "a b/tom & jerry #1 + 50%?.mp4", "/somewhere/else/x.mp4"
    style = writers.OutputStyle(class_names=CLASSES, root=tmp_path / "films")
    write_all(tmp_path, [name, "../beside/y.mp4", outside], style, "labelstudio")
    found = []
    for task in json.loads((tmp_path / "out").read_text()):
        address = urlsplit(task["data"]["video"])
        assert (address.path, address.fragment) == ("/data/local-files/", "")
        (path,) = parse_qs(address.query)["d"]
        found.append(path)
    assert sorted(found) == [outside, "beside/y.mp4", f"films/{name}"]


def test_parquet_takes_any_class_and_leaves_nothing_where_it_fails(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    style = writers.OutputStyle(class_names=[os.fsdecode(b"caf\xe9"), "b", "c"], root=tmp_path)
    write_all(tmp_path, ["x.mp4"], style, "parquet")
    (row,) = parquet.read_table(tmp_path / "out").to_pylist()
    assert (row["label"], row["top"][0][0]) == ("caf\\udce9", "caf\\udce9")
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(IndexError):  # fewer classes than answers
        write_all(
            tmp_path, ["x.mp4"], writers.OutputStyle(class_names=[], root=tmp_path), "parquet"
        )
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_part_of_a_cluster_may_be_empty_and_tells_of_damage(tmp_path: Path) -> None:
    from engine.labelling import cluster

    one, two = item("one.mp4"), item("two.mp4")
    report = LoaderReport()
    report.damaged_frames[one.path] = 3
    report.flaws[two.path] = "cut short"
    report.num_streams[two.path] = 2
    with Journal(tmp_path / "part") as part:
        empty = cluster._columns(cluster._rows([], set(), part, report))
        answers = [answer(one, n, 0.1, 0.2, 0.7, last=n == 1) for n in range(2)]
        part.write([*answers, answer(two, 0, 0.7, 0.2, 0.1)], [], "m")
        pieces = [Piece(item=one), Piece(item=two)]
        columns = cluster._columns(cluster._rows(pieces, set(), part, report))
    tally = Progress()
    with Journal(tmp_path / "whole") as whole:
        gathered = cluster._Gathered([pieces], whole, "m", tally, lambda tally: None)
        for batch in (empty, columns):
            gathered.write(batch)
        assert whole.counts() == (2, 0)
    assert tally.report.describe_damage() == (
        "3 damaged frames of 1 files were used (one.mp4); "
        "1 files are incomplete (two.mp4: cut short)"
    )
    assert tally.report.describe_streams().startswith("1 files hold several videos")


def test_where_nothing_is_new_nothing_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model, which can't be called here, isn't needed either."""
    monkeypatch.setattr(window_loader, "ClipGraph", broken)
    known = item("one.mp4")
    clip = ClipSpec(num_frames=4, resize=72, crop=64)
    with Journal(tmp_path / "j") as journal:
        journal.write([answer(known, 0, 0.1, 0.9)], [], "m")
        model = SimpleNamespace(clip=clip, device=torch.device("cpu"))
        tally = label([known], model, journal, LabelSettings(model="m"))  # type: ignore[arg-type]
    assert (tally.known, tally.done) == (1, 0)


def test_a_file_that_goes_away_while_it_is_read_is_tried_again(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "a.mp4", codec="h264", frames=3)
    listed_as = item_of("a.mp4", path)
    path.rename(tmp_path / "away.mp4")
    clip = ClipSpec(num_frames=4, resize=72, crop=64)
    with Journal(tmp_path / "j") as journal:
        model = SimpleNamespace(clip=clip, device=torch.device("cpu"))
        tally = label([listed_as], model, journal, LabelSettings(model="m"))  # type: ignore[arg-type]
        assert tally.failed == 1
        (tmp_path / "away.mp4").rename(path)
        assert journal.status(item_of("a.mp4", path), "m") == (False, 0)


def test_a_file_of_several_videos_is_told(tmp_path: Path) -> None:
    path = videos.write_two_in_one(tmp_path / "two.mkv")
    loader = WindowLoader([path], ClipSpec(num_frames=4, resize=72, crop=64))
    assert len(list(loader)) == 1
    assert loader.report.describe_streams() == (
        f"1 files hold several videos, of which the first was read ({path}: 2)"
    )


def test_a_format_that_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name a `format`"):
        writers.format_of(Path("labels.txt"), None)
    with pytest.raises(UserError, match="did you mean 'parquet'"):
        writers.format_of(Path("labels.txt"), "parket")


@given(
    st.dictionaries(
        st.integers(0, 30), st.lists(st.floats(0.01, 1), min_size=3, max_size=3), min_size=1
    ),
    st.integers(1, 6),
    st.sampled_from([0.0, 1.0, 5.0]),
)
def test_segments_cover_what_windows_cover_and_no_more(
    drawn: dict[int, list[float]], length: int, smooth_s: float
) -> None:
    windows = [
        (float(start), float(start + length), np.array(shares, np.float32))
        for start, shares in sorted(drawn.items())
    ]
    found = segments(windows, smooth_s=smooth_s)
    covered = {second for start, end, _ in windows for second in range(int(start), int(end))}
    told = [second for each in found for second in range(int(each.start_s), int(each.end_s))]
    assert sorted(told) == sorted(covered)
    for one, other in pairwise(found):
        assert one.end_s < other.start_s or one.label != other.label


def test_overlapping_windows_are_averaged_and_a_weak_flicker_is_smoothed_away() -> None:
    def window(start: float, end: float, run: float) -> tuple[float, float, Any]:
        return start, end, np.array([run, 1 - run], np.float32)

    overlapping = segments([window(0, 4, 0.9), window(2, 6, 0.2), window(4, 8, 0.1)])
    assert [(each.start_s, each.end_s, each.label) for each in overlapping] == [
        (0, 4, 0), (4, 8, 1),
    ]  # fmt: skip
    flicker = [window(0, 2, 0.9), window(2, 4, 0.45), window(4, 6, 0.9)]
    assert len(segments(flicker)) == 3
    (whole,) = segments(flicker, smooth_s=4)
    assert (whole.start_s, whole.end_s, whole.label) == (0, 6, 0)


def test_a_batch_is_filled_up_and_halved_where_memory_is_short() -> None:
    import torch

    sizes: list[int] = []

    def model(clips: Any) -> Any:
        sizes.append(len(clips))
        if len(clips) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return clips.flatten(1).float()

    answerer = BatchedPredictor(model, 8)
    clips = torch.arange(10).reshape(5, 2).to(torch.uint8)
    found = answerer(clips)
    assert sizes == [8, 4, 2, 2, 2]
    assert answerer.halved == 2
    np.testing.assert_allclose(found, clips.float().softmax(dim=1).numpy(), rtol=1e-6)
    with pytest.raises(RuntimeError, match="something else"):
        BatchedPredictor(broken, 2)(clips)


def broken(clips: Any) -> Any:
    raise RuntimeError("something else")


def test_an_item_that_is_a_pipe_or_has_an_impossible_name_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert item_of("pipe.mp4", tmp_path / "pipe.mp4").size == -1
    assert names(below(tmp_path, FileFilter())) == []
    assert item_of("\0", Path("\0")).size == -1


def test_shards_join_to_what_one_journal_holds(tmp_path: Path) -> None:
    with Journal(tmp_path / "whole") as whole:
        fill(whole)
    with Journal(tmp_path / "one") as one:
        one.write([answer(item("a/a.mp4"), 0, 0.1, 0.1, 0.8)], [], "m")
    with Journal(tmp_path / "two") as two:
        two.write(
            [
                answer(item("b.mp4"), 0, 0.2, 0.7, 0.1, last=False),
                answer(item("b.mp4"), 1, 0.6, 0.2, 0.2),
            ],
            [(item("z.mp4"), "the file is empty")],
            "m",
        )
    with Journal(tmp_path / "joined") as joined:
        for part in ("one", "two"):
            joined.merge_from(tmp_path / part)
        joined.bind({"model": "m"}, mix=False)
    rows = [
        sqlite3.connect(tmp_path / name).execute("SELECT * FROM windows").fetchall()
        for name in ("whole", "joined")
    ]
    assert rows[0] == rows[1]


def test_of_a_file_that_two_journals_know_good_labels_stay(tmp_path: Path) -> None:
    def best(name: str, *others: str) -> list[float]:
        with Journal(tmp_path / "whole") as whole:
            for other in (name, *others):
                whole.merge_from(tmp_path / other)
            found = [each.windows[0][2][0] for each in whole.labelled()]
        journal_file.remove(tmp_path / "whole")
        return [round(float(each), 1) for each in found]

    with Journal(tmp_path / "left_out") as journal:
        journal.write([answer(item("a.mp4"), 0, 0.1, 0.9)], [], "m")
        list(journal.noting([]))
        journal.leave_out_others()
    with Journal(tmp_path / "failed") as journal:
        journal.write([], [(item("a.mp4"), "it was away")], "m")
    with Journal(tmp_path / "half") as journal:
        journal.write([answer(item("a.mp4"), 0, 0.2, 0.8, last=False)], [], "m")
        assert not journal.is_finished()
        list(journal.noting([]))
        journal.leave_out_others()
        assert journal.is_finished()  # it is gone since, and nothing waits for it
    for name, mtime_ns, first in (("one", 5, 0.3), ("two", 5, 0.4), ("older", 4, 0.5)):
        with Journal(tmp_path / name) as journal:
            journal.write([answer(item("a.mp4", mtime_ns=mtime_ns), 0, first, 1 - first)], [], "m")
    for bad in ("left_out", "failed", "half"):
        assert best("one", bad) == best(bad, "one") == [0.3]
        assert best(bad) == []
    assert best("one", "two") == best("older", "one", "two") == [0.4]
    assert best("two", "older") == [0.4]


def test_shards_may_lie_in_a_folder_of_any_bytes(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    with Journal(folder / "one") as journal:
        journal.write([answer(item("a.mp4"), 0, 0.1, 0.9)], [], "m")
    with Journal(folder / "whole") as whole:
        whole.merge_from(folder / "one", below=folder)
        assert list(whole.names()) == [str(folder / "a.mp4")]


def test_subtitles_that_are_no_longer_right_go(tmp_path: Path) -> None:
    style = writers.OutputStyle(class_names=CLASSES, root=tmp_path)
    outputs = writers.Outputs(
        labels=tmp_path / "labels.csv", format="csv", failures=tmp_path / "failures.csv",
        subtitles=tmp_path / "vtt",
    )  # fmt: skip
    long = ["n" * 251 + ".mp4", "n" * 251 + ".avi"]
    digests = {f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.vtt" for name in long}

    def names() -> set[str]:
        return {path.name for path in outputs.subtitles.iterdir()}

    with Journal(tmp_path / "j") as journal:
        for name in ("day.mp4", "gone.mp4", "changed.mp4", *long):
            journal.write([answer(item(name), 0, 0.1, 0.2, 0.7)], [], "m")
        assert writers.write(journal, outputs, style).left_alone == []
        assert names() == {"day.vtt", "gone.vtt", "changed.vtt"} | digests
        (outputs.subtitles / "changed.vtt").write_text("WEBVTT\n\nby hand")
        journal.write([answer(item("day.avi"), 0, 0.1, 0.2, 0.7)], [], "m")
        journal.write([], [(item("gone.mp4", size=7), "it is broken now")], "m")
        left_alone = writers.write(journal, outputs, style).left_alone
    assert left_alone == [outputs.subtitles / "changed.vtt"]
    assert names() == {"day.mp4.vtt", "day.avi.vtt", "changed.vtt"} | digests


def test_a_folder_that_is_empty_is_away(tmp_path: Path) -> None:
    source = Source(tmp_path, FileFilter(), is_list=False)
    assert source.is_away()
    (tmp_path / "a.mp4").touch()
    assert not source.is_away()
    assert Source(tmp_path / "none", FileFilter(), is_list=False).is_away()
