"""`engine label` run a second time: what it keeps, refuses and replaces."""

import csv
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import users
import videos
from PIL import Image
from waiting import wait_for

from engine.labelling.job import POLL_S
from engine.labelling.journal import Journal

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    folder = tmp_path_factory.mktemp("three") / "three"
    folder.mkdir()
    for number, name in enumerate(("a.mp4", "b.mp4", "c.mp4")):
        videos.write_video(
            folder / name, codec="h264", frames=16, size=(96, 72), draw=videos.noise(number)
        )
    return folder


@pytest.fixture
def films(three: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(three, tmp_path / "films"))


@pytest.fixture
def run_engine(run_engine_here: Any) -> Any:
    return run_engine_here


def paths_in(out: Path) -> list[str]:
    with out.open(newline="") as file:
        return [row["path"] for row in csv.DictReader(file)]


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_dry_run_changes_nothing(run: Path, films: Path, tmp_path: Path, run_engine: Any) -> None:
    out = tmp_path / "results" / "labels.csv"
    assert run_engine("label", films, "--model", run, "--out", out).returncode == 0
    before = bytes_in(out.parent)
    (films / "a.mp4").touch()
    (films / "b.mp4").unlink()
    dry = run_engine("label", films, "--model", run, "--out", out, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "a.mp4\n1 to label; 1 of 2 are done" in dry.stdout
    assert bytes_in(out.parent) == before


def test_files_that_are_away_for_a_moment_keep_their_labels(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    out, paths = tmp_path / "labels.csv", tmp_path / "paths.txt"
    paths.write_text("".join(f"{path}\n" for path in sorted(films.iterdir())))
    words = ("label", paths, "--list", "--model", run, "--out", out)
    assert run_engine(*words).returncode == 0
    before = out.read_bytes()
    (films / "b.mp4").rename(tmp_path / "b.mp4")
    away = run_engine(*words)
    assert away.returncode == 1
    assert "1 of these don't exist at the moment and keep their labels" in away.stdout
    assert out.read_bytes() == before
    (tmp_path / "b.mp4").rename(films / "b.mp4")
    back = run_engine(*words)
    assert back.returncode == 0
    assert "0 files labelled (0 windows); 3 were labelled before" in back.stdout
    assert out.read_bytes() == before


def test_ctrl_c_says_that_labels_are_kept(run: Path, films: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder" / "labels.csv"
    words = ["label", films, "--model", run, "--out", out, "--watch"]
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", *map(str, words)], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(out.exists)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=900)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors == (
        "engine: stopped; finished labels are kept, and the same command continues.\n"
    )
    assert paths_in(out) == ["a.mp4", "b.mp4", "c.mp4"]


def test_another_folder_or_filter_is_refused_with_the_choices(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    out, other = tmp_path / "labels.csv", tmp_path / "other"
    shutil.copytree(films, other)
    (other / "a.mp4").rename(other / "d.mp4")
    words = ("--model", run, "--out", out)
    assert run_engine("label", films, *words).returncode == 0
    before = out.read_bytes()
    refused = run_engine("label", other, *words)
    assert refused.returncode == 2
    assert f"holds labels of {films}, not of {other}: pass --fresh" in refused.stderr
    assert "another --out; --mix continues and keeps both" in refused.stderr
    assert out.read_bytes() == before
    fewer = run_engine("label", films, *words, "--include", "a*")
    assert "made without --include, not with --include 'a*': pass --fresh" in fewer.stderr
    as_list = run_engine("label", "-", "--list", *words, stdin=str(films / "a.mp4"))
    assert f"holds labels of {films}, not of a list" in as_list.stderr
    mixed = run_engine("label", other, *words, "--mix")
    assert mixed.returncode == 0
    assert "3 files labelled" in mixed.stdout  # two of them have names as in the first folder
    of_other = [str(other / name) for name in ("b.mp4", "c.mp4", "d.mp4")]
    assert paths_in(out) == [*of_other, "a.mp4", "b.mp4", "c.mp4"]
    assert (
        "0 files labelled (0 windows); 3 were" in run_engine("label", other, *words, "--mix").stdout
    )
    alone = run_engine("label", films, *words)
    assert "3 files of earlier runs are no longer in" in alone.stdout
    assert "--mix keeps them" in alone.stdout
    assert out.read_bytes() == before


def test_the_same_folder_by_another_name_is_the_same(
    run: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_engine: Any
) -> None:
    words = ("--model", run, "--out", tmp_path / "labels.csv")
    assert run_engine("label", films, *words).returncode == 0
    (tmp_path / "link").symlink_to(films)
    monkeypatch.chdir(tmp_path)
    for name in ("films", "./films/", "link", films / ".." / "films"):
        done = run_engine("label", name, *words, "--dry-run")
        assert "0 to label; 3 of 3 are done" in done.stdout, done.stderr
    films.rename(tmp_path / "moved")
    moved = run_engine("label", "moved", *words)
    assert moved.returncode == 2
    assert "if the same folder was moved or renamed, --mix continues with it" in moved.stderr
    gone_on = run_engine("label", "moved", *words, "--mix")
    assert "0 files labelled (0 windows); 3 were labelled before" in gone_on.stdout
    assert "0 to label" in run_engine("label", "moved", *words, "--dry-run").stdout


def test_a_list_may_grow_and_an_old_journal_goes_on(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    out = tmp_path / "labels.csv"
    words = ("label", "-", "--list", "--model", run, "--out", out)
    names = [str(films / name) for name in ("a.mp4", "b.mp4")]
    first = run_engine(*words, stdin="\n".join(names))
    assert first.returncode == 0, first.stderr
    base = sqlite3.connect(tmp_path / "labels.csv.journal")  # as they were written before
    base.executescript(
        "DELETE FROM facts WHERE key IN ('root', 'include', 'exclude', 'merged');"
        "DROP TABLE left_out;"
    )
    base.close()
    names.append(str(films / "c.mp4"))
    more = run_engine(*words, stdin="\n".join(names))
    assert more.returncode == 0, more.stderr
    assert "1 files labelled (1 windows)" in more.stdout
    assert "2 were labelled before" in more.stdout
    assert paths_in(out) == names


def test_what_is_gone_leaves_the_results_and_comes_back_without_work(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    out = tmp_path / "labels.csv"
    words = ("label", films, "--model", run, "--out", out)
    (films / "broken.mp4").write_bytes(b"no video")
    assert run_engine(*words).returncode == 1
    before = out.read_bytes()
    for name in ("b.mp4", "broken.mp4"):
        (films / name).rename(tmp_path / name)
    fewer = run_engine(*words)
    assert fewer.returncode == 0, fewer.stderr
    assert f"2 files of earlier runs are no longer in {films} and" in fewer.stdout
    assert paths_in(out) == ["a.mp4", "c.mp4"]
    assert not (tmp_path / "failures-labels.csv").exists()
    (tmp_path / "b.mp4").rename(films / "b.mp4")
    back = run_engine(*words)
    assert "0 files labelled (0 windows); 3 were labelled before" in back.stdout
    assert out.read_bytes() == before


@pytest.mark.parametrize("how", ["missing", "empty", "links", "list"])
def test_a_drive_that_is_away_leaves_the_results_as_they_are(
    how: str, run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    out, paths, root = tmp_path / "labels.csv", tmp_path / "paths.txt", films
    paths.write_text("".join(f"{path}\n" for path in sorted(films.iterdir())))
    if how == "links":
        root = tmp_path / "links"
        root.mkdir()
        for path in films.iterdir():
            (root / path.name).symlink_to(path)
    words = ["label", root, "--model", run, "--out", out]
    if how == "list":
        words[1:2] = [paths, "--list"]
    assert run_engine(*words).returncode == 0
    before = out.read_bytes()
    films.rename(tmp_path / "away")
    if how == "empty":
        films.mkdir()
    for more in ([], ["--fresh"]):
        away = run_engine(*words, *more)
        assert away.returncode == 2, away.stdout
        assert {
            "missing": "is not a folder", "empty": "check that its drive is connected",
            "links": "none of the 3 files of", "list": "none of the 3 files of",
        }[how] in away.stderr  # fmt: skip
        assert out.read_bytes() == before
    if how == "empty":
        films.rmdir()
    (tmp_path / "away").rename(films)
    assert "0 to label" in run_engine(*words, "--dry-run").stdout


def test_failures_of_another_out_stay(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    (films / "broken.mp4").write_bytes(b"no video")
    for name, more in (("one.csv", ()), ("two.csv", ("--exclude", "broken*"))):
        run_engine("label", films, "--model", run, "--out", tmp_path / name, *more)
    assert paths_in(tmp_path / "failures-one.csv") == ["broken.mp4"]
    assert not (tmp_path / "failures-two.csv").exists()
    assert not (tmp_path / "failures.csv").exists()


def test_links_that_lead_nowhere_are_named(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    (films / "folder").symlink_to(tmp_path / "nothing")
    done = run_engine("label", films, "--model", run, "--out", tmp_path / "labels.csv")
    assert done.returncode == 1
    assert "1 folders or links couldn't be read: folder (broken link)" in done.stdout


def test_a_shard_without_files_has_a_result_that_merges(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    (films / "c.mp4").unlink()
    outs = [tmp_path / f"labels-{number}.csv" for number in (1, 2, 3)]
    for number, out in enumerate(outs, 1):
        done = run_engine("label", films, "--model", run, "--out", out, "--shard", f"{number}/3")
        assert done.returncode == 0, done.stderr
    assert sorted(map(paths_in, outs))[0] == []
    merged = run_engine(
        "label", "--merge", *outs, "--format", "fiftyone", "--out", tmp_path / "samples.json"
    )
    assert merged.returncode == 0, merged.stderr
    samples = json.loads((tmp_path / "samples.json").read_text())["samples"]
    assert [each["filepath"] for each in samples] == [str(films / "a.mp4"), str(films / "b.mp4")]


def test_a_merge_replaces_no_labels_of_ours_and_nothing_where_it_fails(
    run: Path, films: Path, tmp_path: Path, run_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, more in (("labels.csv", ()), ("one.csv", ()), ("two.csv", ("--window", 1))):
        assert run_engine("label", films, "--model", run, "--out", name, *more).returncode == 0
    before = bytes_in(tmp_path)
    refused = run_engine("label", "--merge", "one.csv")
    assert refused.returncode == 2
    assert "labels.csv.journal holds labels that --merge did not write" in refused.stderr
    mixed = run_engine("label", "--merge", "one.csv", "two.csv", "--fresh")
    assert mixed.returncode == 2
    assert "holds labels made with window 1" in mixed.stderr
    assert bytes_in(tmp_path) == before
    assert run_engine("label", "--merge", "one.csv", "--fresh").returncode == 0
    assert run_engine("label", "--merge", "one.csv").returncode == 0  # it comes of a merge
    with Journal(tmp_path / "labels.csv.journal") as journal:
        assert journal.counts() == (3, 0)


def test_a_merge_tells_what_is_missing_unfinished_or_of_another_run(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    outs = [tmp_path / "shards" / f"labels-{number}.csv" for number in (1, 2)]
    for number, out in enumerate(outs, 1):
        words = ("--model", run, "--out", out, "--shard", f"{number}/2")
        assert run_engine("label", films, *words).returncode == 0
    whole, joined = tmp_path / "whole.csv", tmp_path / "all.csv"
    assert run_engine("label", films, "--model", run, "--out", whole).returncode == 0
    before = bytes_in(outs[0].parent)
    merge = ("label", "--merge", "--out", joined)
    one = run_engine(*merge, outs[0])
    assert (one.returncode, "shard 2/2 is missing: name its result, too" in one.stdout) == (1, True)
    assert run_engine(*merge, *outs).returncode == 0
    assert paths_in(joined) == ["a.mp4", "b.mp4", "c.mp4"]
    lost = run_engine(*merge, outs[0])
    assert lost.returncode == 2
    assert (
        "files that are in none of these shards: name another --out, or pass --fresh" in lost.stderr
    )
    dry = run_engine(*merge, *outs, "--dry-run")
    assert "--merge joins existing results: leave out --dry-run" in dry.stderr
    for wrong, words in (
        ((whole, outs[0]), "are not shards of one run"),
        ((outs[0], outs[0].parent / ".." / "shards" / outs[0].name), "is named twice"),
    ):
        refused = run_engine(*merge, *wrong)
        assert refused.returncode == 2
        assert words in refused.stderr
    shutil.copytree(outs[0].parent, tmp_path / "copies")
    twice = run_engine(*merge, *outs, tmp_path / "copies" / outs[0].name)
    assert "are both shard 1/2: name one of them" in twice.stderr
    onto = outs[0].parent / ".." / "shards" / outs[1].name
    itself = run_engine("label", "--merge", *outs, "--fresh", "--out", onto)
    assert "is one of the shards: name another file" in itself.stderr
    assert bytes_in(outs[0].parent) == before
    with Journal(Path(f"{outs[1]}.journal")) as journal:
        journal.bind({}, mix=False)  # as a run that begins, and is killed then
    killed = run_engine(*merge, *outs)
    assert killed.returncode == 1
    assert f"{outs[1]}.journal isn't finished: run that shard again" in killed.stdout


def test_shards_that_may_only_be_read_are_merged(run: Path, films: Path, run_engine: Any) -> None:
    with users.shared_folder() as folder:
        outs = [folder / "shards" / f"labels-{number}.csv" for number in (1, 2)]
        for number, out in enumerate(outs, 1):
            words = ("--model", run, "--out", out, "--shard", f"{number}/2")
            assert run_engine("label", films, *words).returncode == 0
        merge = ("label", "--merge", *outs, "--out")
        assert run_engine(*merge, folder / "by_root.csv").returncode == 0  # imports what it needs
        before = bytes_in(outs[0].parent)
        outs[0].parent.chmod(0o555)
        folder.chmod(0o777)
        with users.another_user():
            merged = run_engine(*merge, folder / "all.csv")
        outs[0].parent.chmod(0o755)
        assert merged.returncode == 0, merged.stderr
        assert paths_in(folder / "all.csv") == ["a.mp4", "b.mp4", "c.mp4"]
        assert bytes_in(outs[0].parent) == before


def test_no_file_of_somebody_else_is_replaced(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    truth = tmp_path / "labels.csv"
    truth.write_text("path,label\na.mp4,wave\n")
    words = ("label", films, "--model", run)
    refused = run_engine(*words, "--out", truth)
    assert refused.returncode == 2
    assert f"{truth} already exists and was not written by a run with this --out" in refused.stderr
    assert "name another file, or pass --fresh to replace it" in refused.stderr
    assert truth.read_text() == "path,label\na.mp4,wave\n"
    assert not Path(f"{truth}.journal").exists()
    one, failures = tmp_path / "q.csv", tmp_path / "failures-q.csv"
    assert run_engine(*words, "--out", failures).returncode == 0
    before = failures.read_bytes()
    for again in (
        run_engine(*words, "--out", one),
        run_engine(*words, "--out", one, "--fresh"),
        run_engine(*words, "--out", tmp_path / "r.csv", "--segments", failures, "--window", 1),
    ):
        assert again.returncode == 2
        assert f"{failures} is the result of another run: name another file" in again.stderr
    assert failures.read_bytes() == before
    (films / "broken.mp4").write_bytes(b"no video")
    as_studio = (*words, "--format", "labelstudio", "--out", tmp_path / "l")
    assert run_engine(*as_studio).returncode == 1
    assert paths_in(tmp_path / "failures-l.csv") == ["broken.mp4"]
    same = run_engine(*words, "--out", tmp_path / "l.csv", "--exclude", "broken*")
    assert same.returncode == 2
    assert "failures-l.csv already exists" in same.stderr
    assert run_engine(*as_studio).returncode == 1  # its own is written anew
    assert run_engine(*words, "--out", truth, "--fresh").returncode == 1
    assert paths_in(truth) == ["a.mp4", "b.mp4", "c.mp4"]
    journal = Path(f"{truth}.journal")
    known = journal.read_bytes()
    onto = run_engine(*words, "--out", one.with_name("s.csv"), "--fresh", "--segments", journal)
    assert f"{journal} has the name of a journal: name a file for the results" in onto.stderr
    assert journal.read_bytes() == known


def test_segments_that_somebody_changed_are_theirs(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    (tmp_path / "results").mkdir()
    out, spans = tmp_path / "results" / "labels.csv", tmp_path / "results" / "segments.csv"
    words = ("label", films, "--model", run, "--window", 1, "--segments")
    assert run_engine(*words, spans, "--out", out).returncode == 0
    assert run_engine(*words, spans, "--out", out).returncode == 0
    moved = out.parent.rename(tmp_path / "moved")
    spans, out = moved / spans.name, moved / "better.csv"
    (moved / "labels.csv").rename(out)  # with its journal, it has another name
    (moved / "labels.csv.journal").rename(f"{out}.journal")
    assert run_engine(*words, spans, "--out", out).returncode == 0
    by_hand = spans.read_text() + "a.mp4,0,1,mine,1\n"
    spans.write_text(by_hand)
    refused = run_engine(*words, spans, "--out", out)
    assert refused.returncode == 2
    assert f"{spans} already exists and was not written by a run with this --out" in refused.stderr
    assert "--fresh" not in refused.stderr  # the labels need not be made anew for that
    assert spans.read_text() == by_hand
    linked = tmp_path / "linked.csv"
    linked.symlink_to(tmp_path / "nothing")
    for _ in range(2):
        assert run_engine(*words, tmp_path / "s.csv", "--out", linked).returncode == 0


def test_a_run_killed_before_it_wrote_owns_nothing_else(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    out, truth = tmp_path / "labels.csv", tmp_path / "truth.csv"
    words = ["label", films, "--model", run, "--out", out]
    process = subprocess.Popen([sys.executable, "-m", "engine", *map(str, words)])
    wait_for(Path(f"{out}.journal").exists)
    wait_for(lambda: process.poll() is not None or _knows_facts(Path(f"{out}.journal")))
    process.kill()
    process.wait()
    truth.write_text("mine")
    refused = run_engine(*words, "--segments", truth)
    assert refused.returncode == 2
    assert truth.read_text() == "mine"
    assert run_engine(*words).returncode == 0


def _knows_facts(journal: Path) -> bool:
    """Bytes alone are looked at, since the process holds its lock."""
    log = Path(f"{journal}-wal")
    return log.exists() and b"classes" in log.read_bytes()


def test_lists_of_relative_names_are_kept_apart(
    run: Path, films: Path, tmp_path: Path, run_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(films, tmp_path / "other"))
    words = ("label", "-", "--list", "--model", run, "--out", tmp_path / "labels.csv")
    monkeypatch.chdir(films)
    assert run_engine(*words, stdin="a.mp4\n").returncode == 0
    monkeypatch.chdir(other)
    refused = run_engine(*words, stdin="a.mp4\n")
    assert refused.returncode == 2
    assert f"labels of a list in {films}, not of a list in {other}" in refused.stderr
    assert run_engine(*words, "--mix", stdin="a.mp4\nb.mp4\n").returncode == 0
    wanted = sorted([str(other / "a.mp4"), str(other / "b.mp4"), "a.mp4"])
    assert paths_in(tmp_path / "labels.csv") == wanted


def test_another_folder_isnt_taken_for_one_that_was_moved(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    other = Path(shutil.copytree(films, tmp_path / "other"))
    videos.write_video(
        other / "a.mp4", codec="h264", frames=20, size=(96, 72), draw=videos.noise(7)
    )
    words = ("--model", run, "--out", tmp_path / "labels.csv")
    assert run_engine("label", films, *words).returncode == 0
    films.rename(tmp_path / "away")
    assert run_engine("label", other, *words, "--mix").returncode == 0  # b and c are as there
    assert paths_in(tmp_path / "labels.csv") == sorted(
        [str(other / name) for name in ("a.mp4", "b.mp4", "c.mp4")] + ["a.mp4", "b.mp4", "c.mp4"]
    )


def test_a_cluster_that_isnt_there_costs_no_labels(
    run: Path, films: Path, tmp_path: Path, run_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it isn't installed
    words = ("label", films, "--model", run, "--out", tmp_path / "labels.csv")
    assert run_engine(*words).returncode == 0
    assert run_engine(*words, "--cluster", "--fresh").returncode == 3
    with Journal(tmp_path / "labels.csv.journal") as journal:
        assert journal.counts() == (3, 0)


def test_subtitles_written_by_hand_stay(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    (films / "a.vtt").write_text("WEBVTT\n\n00:00.000 --> 00:01.000\nHello!\n")
    by_hand = (films / "a.vtt").read_bytes()
    words = ("label", films, "--model", run, "--vtt", films, "--out", tmp_path / "labels.csv")
    for _ in range(2):
        done = run_engine(*words)
        assert done.returncode == 1
        assert "1 subtitles existed before and were not written with this --out" in done.stdout
        assert f"they were kept: {films / 'a.vtt'}; remove them" in done.stdout
    assert (films / "a.vtt").read_bytes() == by_hand
    assert (films / "b.vtt").exists()
    moved = films.rename(tmp_path / "moved")  # with the subtitles, but not the results
    (moved / "a.vtt").unlink()
    again = ("label", moved, "--model", run, "--mix", "--out", tmp_path / "labels.csv")
    assert run_engine(*again, "--vtt", tmp_path / "vtt").returncode == 0
    assert sorted(path.name for path in (tmp_path / "vtt").iterdir()) == [
        "a.vtt", "b.vtt", "c.vtt",
    ]  # fmt: skip


def test_a_refused_command_leaves_the_journal_as_it_was(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    out = tmp_path / "labels.csv"
    (films / "broken.mp4").write_bytes(b"no video")
    words = ("label", films, "--model", run, "--out", out)
    assert run_engine(*words).returncode == 1
    for flag in ("--fresh", "--retry", "--mix"):
        assert run_engine(*words, flag, "--device", "gpus").returncode == 2
        with Journal(Path(f"{out}.journal")) as journal:
            assert journal.counts() == (3, 1)
            assert journal.facts()["finished"]


def test_a_file_by_two_names_has_two_rows_however_often_it_is_labelled(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    out, paths = tmp_path / "labels.csv", tmp_path / "paths.txt"
    names = [f"{films}/a.mp4", f"{films}//a.mp4", f"{films}/b.mp4"]
    paths.write_text("\n".join([*names, names[0]]))
    for _ in range(2):
        assert run_engine("label", paths, "--list", "--model", run, "--out", out).returncode == 0
        assert paths_in(out) == sorted(names)


def test_frames_written_over_are_labelled_anew(run: Path, tmp_path: Path, run_engine: Any) -> None:
    folder = tmp_path / "films" / "clip"
    folder.mkdir(parents=True)
    for number in range(8):
        Image.new("RGB", (96, 72), (9 * number, 0, 0)).save(folder / f"{number:03}.png")
    words = ("label", folder.parent, "--model", run, "--out", tmp_path / "labels.csv")
    assert "1 files labelled" in run_engine(*words).stdout
    assert "0 files labelled" in run_engine(*words).stdout
    with (folder / "003.png").open("r+b") as file:  # the folder itself doesn't change
        Image.new("RGB", (96, 72), (0, 200, 0)).save(file, "png")
        file.truncate()
    assert "1 files labelled" in run_engine(*words).stdout


def test_files_that_come_back_are_in_the_results_of_who_watches(
    run: Path, films: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels.csv"
    words = ["label", films, "--model", run, "--out", out, "--watch"]
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", *map(str, words)], stdout=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: out.exists() and len(paths_in(out)) == 3)
        (films / "b.mp4").rename(tmp_path / "b.mp4")
        wait_for(lambda: paths_in(out) == ["a.mp4", "c.mp4"])
        (tmp_path / "b.mp4").rename(films / "b.mp4")
        wait_for(lambda: paths_in(out) == ["a.mp4", "b.mp4", "c.mp4"])
        films.rename(tmp_path / "disk")  # its drive goes away, and leaves an empty folder
        films.mkdir()
        time.sleep(3 * POLL_S)
        assert paths_in(out) == ["a.mp4", "b.mp4", "c.mp4"]
    finally:
        process.kill()
        process.wait()


def test_shards_of_different_folders_are_joined_only_with_mix(
    run: Path, films: Path, tmp_path: Path, run_engine: Any
) -> None:
    other = Path(shutil.copytree(films, tmp_path / "other"))
    outs = [tmp_path / "labels-1.csv", tmp_path / "labels-2.csv"]
    for number, (folder, out) in enumerate(zip((films, other), outs, strict=True), 1):
        words = ("--model", run, "--out", out, "--shard", f"{number}/2")
        assert run_engine("label", folder, *words).returncode == 0
    words = ("label", "--merge", *outs, "--out", tmp_path / "labels.csv")
    refused = run_engine(*words)
    assert refused.returncode == 2
    assert f"labels of {other}, not of {films}" in refused.stderr
    assert "pass --mix to join them" in refused.stderr
    assert run_engine(*words, "--mix").returncode == 0
    parts = [paths_in(out) for out in outs]
    both = [*parts[0], *(str(other / name) for name in parts[1])]
    assert paths_in(tmp_path / "labels.csv") == sorted(both)
