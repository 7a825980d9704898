"""Laws of folds: each clip is tested once, no source is cut, and what was written is read again."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from folders import make_clips
from hypothesis import given
from hypothesis import strategies as st

from engine.data import folds, manifest, splits
from engine.data import index as indexing
from engine.data.index import index_folder
from engine.data.manifest import Clip, Manifest
from engine.errors import UserError

datasets = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from([f"film_{i}" for i in range(25)])),
    min_size=1,
    max_size=150,
).map(make_clips)
seeds = st.integers(0, 2**31)


def dataset(clips: tuple[Clip, ...], root: Path = Path("nowhere")) -> Manifest:
    return Manifest(root=root, clips=clips)


def num_sources(clips: tuple[Clip, ...]) -> int:
    return len({clip.source for clip in clips})


def check(made: folds.Folds, clips: tuple[Clip, ...]) -> None:
    tested = Counter(
        clip.path
        for number in made.numbers(None)
        for clip in made.fold(number).clips
        if clip.split == "test"
    )
    assert tested == Counter(clip.path for clip in clips)
    for parts in made.splits:
        sides = defaultdict(set)
        for clip, part in zip(clips, parts, strict=True):
            sides[clip.source].add(part)
        assert all(len(side) == 1 for side in sides.values())
        assert set(parts) == set(splits.PARTS)


@given(datasets, st.integers(2, 12), seeds)
def test_each_clip_is_tested_once_and_no_source_is_cut(clips, num_folds: int, seed: int) -> None:
    try:
        made = folds.make(dataset(clips), "grouped", num_folds=num_folds, seed=seed)
    except UserError:
        assert num_sources(clips) < max(3, num_folds) or num_folds == 2
        return
    assert len(made) == num_folds
    check(made, clips)


@given(datasets, seeds)
def test_leaving_one_source_out_tests_each_source_alone(clips, seed: int) -> None:
    if num_sources(clips) < 3:
        return
    made = folds.make(dataset(clips), folds.LEAVE_ONE_OUT, seed=seed)
    check(made, clips)
    tested = [
        {clip.source for clip in made.fold(number).clips if clip.split == "test"}
        for number in made.numbers(None)
    ]
    assert tested == [{source} for source in sorted({clip.source for clip in clips})]


@pytest.mark.slow
@given(st.lists(st.sampled_from("abcd"), min_size=20, max_size=150), st.integers(2, 10), seeds)
def test_folds_balance_classes_where_sources_are_single_clips(labels, num_folds, seed) -> None:
    clips = make_clips([(label, f"film_{i}") for i, label in enumerate(labels)])
    made = folds.make(dataset(clips), "grouped", num_folds=num_folds, seed=seed)
    for parts in made.splits:
        counts = Counter(
            clip.label for clip, part in zip(clips, parts, strict=True) if part == "test"
        )
        for label, total in Counter(labels).items():
            assert abs(counts[label] - total / num_folds) <= 1
        assert abs(counts.total() - len(labels) / num_folds) <= 2


def test_pairs_of_sequences_are_folds_and_each_validates_once() -> None:
    clips = make_clips([(label, f"seq{i:02}") for i in range(20) for label in "abcdef"])
    made = folds.make(dataset(clips), "grouped", num_folds=10)
    for part, number in (("train", 96), ("val", 12), ("test", 12)):
        assert [parts.count(part) for parts in made.splits] == [number] * 10  # type: ignore[arg-type]
    validated = Counter(
        clip.source
        for number in made.numbers(None)
        for clip in made.fold(number).clips
        if clip.split == "val"
    )
    assert set(validated.values()) == {6}


@given(datasets, seeds, st.randoms(use_true_random=False))
def test_the_seed_decides_and_the_order_of_files_does_not(clips, seed, shuffler) -> None:
    if num_sources(clips) < 5:
        return
    shuffled = list(clips)
    shuffler.shuffle(shuffled)
    first = folds.make(dataset(clips), "grouped", num_folds=5, seed=seed)
    second = folds.make(dataset(tuple(shuffled)), "grouped", num_folds=5, seed=seed)
    assert first.digests == second.digests


def test_folds_are_read_as_they_were_written(synth: Path) -> None:
    made = folds.apply(manifest.load(synth), "grouped", num_folds=3, seed=7)
    assert splits.current(manifest.load(synth)) == "grouped folds 3 fold 1 seed 7"
    read = folds.load_folds(synth)
    assert (read.splits, read.digests) == (made.splits, made.digests)
    third, words = folds.load_split(synth, None, 3)
    assert third.clips == made.fold(3).clips
    assert words == "grouped folds 3 fold 3 seed 7"
    path = synth / "splits" / "grouped-folds3-fold3-seed7.csv"
    path.write_text(path.read_text().replace(",val\n", ",train\n"))
    assert folds.load_split(synth, None, 3)[1] == "grouped folds 3 fold 3, edited since"
    with pytest.raises(UserError, match="has no fold 4: `folds` takes 1 to 3"):
        folds.load_split(synth, None, 4)


def test_another_split_or_index_ends_the_folds(synth: Path) -> None:
    folds.apply(manifest.load(synth), "grouped", num_folds=3)
    splits.apply(manifest.load(synth), splits.Grouped())
    with pytest.raises(UserError, match="isn't divided into folds; run `engine data split`"):
        folds.load_folds(synth)
    folds.apply(manifest.load(synth), "grouped", num_folds=3)
    indexing.save(index_folder(synth))
    with pytest.raises(UserError, match="isn't divided into folds"):
        folds.load_folds(synth)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gone.avi,a,train", "line 32 is no clip"),
        ("x", "line 32 is no clip"),
        ('"x', "is damaged"),
    ],
)
def test_a_damaged_fold_is_named(synth: Path, line: str, message: str) -> None:
    folds.apply(manifest.load(synth), "grouped", num_folds=3)
    path = synth / "splits" / "grouped-folds3-fold2-seed0.csv"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=message):
        folds.load_folds(synth)
    path.unlink()
    with pytest.raises(UserError, match=r"fold2-seed0\.csv is missing; run `engine data split"):
        folds.load_folds(synth)


def test_bad_clips_are_tested_in_no_fold(tmp_path: Path) -> None:
    good = make_clips([("ab"[i % 2], f"film_{i}") for i in range(12)])
    bad = (Clip(path="broken.avi", label="a", source="film_0"),)
    made = folds.make(dataset(good + bad, tmp_path), "grouped", num_folds=4)
    assert {parts[-1] for parts in made.splits} == {""}
    check(folds.make(dataset(good, tmp_path), "grouped", num_folds=4), good)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scheme", "grouped", "--folds", 200), "200 folds: choose .* 2 to 100 --folds"),
        (("--scheme", "grouped", "--folds", 90), "sources for 90 folds, which take at least 90"),
        (("--scheme", "stratified", "--folds", 5), "--folds only goes with --scheme grouped"),
        (("--scheme", "leave-one-source-out", "--folds", 5), "remove --folds, or choose"),
        (("--scheme", "leave-one-out"), "did you mean 'leave-one-source-out'"),
    ],
)
def test_wrong_folds_are_told(run_engine, synth: Path, arguments, message: str) -> None:
    before = (synth / "manifest.csv").read_bytes()
    result = run_engine("data", "split", synth, *arguments)
    assert result.returncode == 2
    assert re.search(message, result.stderr)
    assert (synth / "manifest.csv").read_bytes() == before


def test_the_command_says_what_each_fold_tests(run_engine, synth: Path) -> None:
    result = run_engine("data", "split", synth, "--scheme", "grouped", "--folds", 3)
    assert result.returncode == 0, result.stderr
    assert "grouped, 3 folds, seed 0, from 30 clips" in result.stdout
    assert len([line for line in result.stdout.splitlines() if line.startswith("fold ")]) == 3
