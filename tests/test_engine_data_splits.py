"""Laws of splits: disjoint, balanced, seeded, and no source on two sides where that is promised."""

import dataclasses
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from folders import make_clips
from hypothesis import given
from hypothesis import strategies as st

from engine.data import hmdb51_splits, manifest, splits, validate
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


@given(datasets, seeds)
def test_stratified_balances_every_class_within_one_clip(clips, seed: int) -> None:
    parts = splits.Stratified(seed=seed).assign(dataset(clips))
    counts = Counter((clip.label, part) for clip, part in zip(clips, parts, strict=True))
    for label, total in Counter(clip.label for clip in clips).items():
        for part, fraction in zip(splits.PARTS, splits.FRACTIONS, strict=True):
            assert abs(counts[label, part] - fraction * total) < 1


@given(datasets, seeds)
def test_grouped_never_cuts_a_source(clips, seed: int) -> None:
    parts = splits.Grouped(seed=seed).assign(dataset(clips))
    sides = defaultdict(set)
    for clip, part in zip(clips, parts, strict=True):
        sides[clip.source].add(part)
    assert all(len(side) == 1 for side in sides.values())


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=150), seeds)
def test_grouped_balances_within_one_clip_where_sources_are_single_clips(labels, seed) -> None:
    clips = make_clips([(label, f"film_{i}") for i, label in enumerate(labels)])
    parts = splits.Grouped(seed=seed).assign(dataset(clips))
    counts = Counter((clip.label, part) for clip, part in zip(clips, parts, strict=True))
    for label, total in Counter(labels).items():
        if total < 10:
            continue  # there every part gets a clip first
        for part, fraction in zip(splits.PARTS, splits.FRACTIONS, strict=True):
            assert abs(counts[label, part] - fraction * total) <= 1


@given(st.integers(3, 12), st.integers(1, 9), seeds)
@pytest.mark.slow
def test_grouped_gives_every_part_a_clip_of_every_class_that_has_three_sources(
    num_sources: int, clips_per_source: int, seed: int
) -> None:
    clips = make_clips(
        [
            (label, f"{label}_{source}")
            for label in "abc"
            for source in range(num_sources)
            for _ in range(clips_per_source)
        ]
    )
    parts = splits.Grouped(seed=seed).assign(dataset(clips))
    present = {(clip.label, part) for clip, part in zip(clips, parts, strict=True)}
    assert present == {(label, part) for label in "abc" for part in splits.PARTS}


@given(
    datasets, seeds, st.sampled_from([splits.Stratified, splits.Grouped, splits.Naive]),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_the_seed_decides_and_the_order_of_files_does_not(clips, seed, scheme, shuffler) -> None:
    shuffled = list(clips)
    shuffler.shuffle(shuffled)
    first = scheme(seed=seed).assign(dataset(clips))
    second = scheme(seed=seed).assign(dataset(tuple(shuffled)))
    by_path = dict(zip([clip.path for clip in shuffled], second, strict=True))
    assert first == [by_path[clip.path] for clip in clips]


def test_other_seeds_deal_otherwise() -> None:
    clips = make_clips([("a", f"film_{i}") for i in range(60)])
    for scheme in (splits.Stratified, splits.Grouped, splits.Naive):
        assert scheme(seed=0).assign(dataset(clips)) != scheme(seed=1).assign(dataset(clips))


def write_official(root: Path, clips: tuple[Clip, ...]) -> Manifest:
    """70 train, 30 test and the rest unused in each class, differently in each fold."""
    folder = root / hmdb51_splits.FOLDER
    folder.mkdir(parents=True)
    for label in {clip.label for clip in clips}:
        names = [Path(clip.path).name for clip in clips if clip.label == label]
        for fold in hmdb51_splits.FOLDS:
            random.Random(fold).shuffle(names)
            roles = ["1"] * 70 + ["2"] * 30 + ["0"] * (len(names) - 100)
            lines = [f"{name} {role} \n" for name, role in zip(names, roles, strict=True)]
            (folder / f"{label}_test_split{fold}.txt").write_text("".join(lines))
    return dataset(clips, root)


@pytest.fixture
def official(tmp_path: Path) -> Manifest:
    members = [(label, f"film_{i % 30}") for label in ("climb", "climb_stairs") for i in range(110)]
    return write_official(tmp_path, make_clips(members))


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_official_keeps_its_test_part_and_carves_val_by_source(official, fold: int) -> None:
    published = hmdb51_splits.read_fold(official, fold)
    parts = splits.Official(fold=fold).assign(official)
    assert Counter(published) == {"train": 140, "test": 60, "": 20}
    assert hmdb51_splits.odd_counts(official) == []
    for before, after in zip(published, parts, strict=True):
        assert after == before or (before, after) == ("train", "val")
    carved = {
        clip.source for clip, part in zip(official.clips, parts, strict=True) if part == "val"
    }
    kept = {
        clip.source for clip, part in zip(official.clips, parts, strict=True) if part == "train"
    }
    assert carved
    assert not carved & kept
    assert 8 <= parts.count("val") <= 20


def test_official_names_are_matched_exactly_in_their_class(tmp_path: Path) -> None:
    """`climb` must not take the clips of `climb_stairs`, and brackets are no patterns."""
    clips = tuple(
        Clip(path=f"videos/{label}/[x]_{label}_f_nm_np1_fr_goo_0.avi", label=label, source="[x]")
        for label in ("climb", "climb_stairs")
    )
    folder = tmp_path / hmdb51_splits.FOLDER
    folder.mkdir()
    for label, role in (("climb", 1), ("climb_stairs", 2)):
        for fold in hmdb51_splits.FOLDS:
            (folder / f"{label}_test_split{fold}.txt").write_text(
                f"[x]_{label}_f_nm_np1_fr_goo_0.avi {role}\n"
            )
    assert hmdb51_splits.read_fold(dataset(clips, tmp_path), 1) == ["train", "test"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("gone.avi 1", r"climb_test_split1\.txt line 111 names gone\.avi, which isn't among"),
        ("film_0_climb_f_nm_np1_fr_goo_0.avi 1", "line 111 names .* a second time"),
        ("film.avi 7", r"line 111: 'film\.avi 7' isn't"),
        ("film.avi", "line 111: 'film.avi' isn't"),
    ],
)
def test_a_bad_line_of_a_split_file_is_named(official, line: str, reason: str) -> None:
    path = official.root / hmdb51_splits.FOLDER / "climb_test_split1.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=reason):
        splits.Official(fold=1).assign(official)


def test_a_missing_split_file_or_folder_or_fold_is_named(official, tmp_path_factory) -> None:
    (official.root / hmdb51_splits.FOLDER / "climb_test_split2.txt").unlink()
    with pytest.raises(UserError, match=r"climb_test_split2\.txt can't be read"):
        splits.Official(fold=2).assign(official)
    with pytest.raises(UserError, match="choose fold 1, 2 or 3"):
        splits.Official(fold=4).assign(official)
    with pytest.raises(UserError, match="has no official splits"):
        splits.Official().assign(dataset(official.clips, tmp_path_factory.mktemp("bare")))


def test_hmdb_simp_takes_25_classes_by_36_9_5() -> None:
    labels = [*splits.HMDB_SIMP_CLASSES, "catch", "run"]
    clips = make_clips([(label, f"film_{i}") for label in labels for i in range(60)])
    parts = splits.HmdbSimp().assign(dataset(clips))
    assert Counter(parts) == {"train": 900, "val": 225, "test": 125, "": 27 * 60 - 1250}
    per_class = Counter((clip.label, part) for clip, part in zip(clips, parts, strict=True))
    assert len(splits.HMDB_SIMP_CLASSES) == len(set(splits.HMDB_SIMP_CLASSES)) == 25
    for label in splits.HMDB_SIMP_CLASSES:
        assert [per_class[label, part] for part in splits.PARTS] == [36, 9, 5]
    with pytest.raises(UserError, match="has 0 clips of brush_hair where hmdb-simp takes 50"):
        splits.HmdbSimp().assign(dataset(clips[60:]))


def test_apply_writes_what_others_can_use_and_knows_its_own(synth: Path) -> None:
    before = manifest.load(synth)
    after = splits.apply(before, splits.Grouped(seed=3))
    loaded = manifest.load(synth)
    assert loaded == after
    assert splits.current(loaded) == "grouped seed 3"
    lines = (synth / "splits" / "grouped-seed3.csv").read_text().splitlines()
    assert lines[0] == "path,label,split"
    assert lines[1] == f"{after.clips[0].path},{after.clips[0].label},{after.clips[0].split}"
    assert len(lines) == 1 + len(after.clips)
    swapped = loaded.with_splits(["train"] * len(loaded.clips))
    assert splits.current(swapped) == "grouped, edited since"
    assert splits.current(loaded.with_splits([""] * len(loaded.clips))) == "none"


def test_a_part_that_would_be_empty_is_refused(tmp_path: Path) -> None:
    clips = make_clips([("a", "film"), ("b", "film")])
    with pytest.raises(UserError, match="its test split would be empty"):
        splits.apply(dataset(clips, tmp_path), splits.Grouped())
    assert not (tmp_path / "splits").exists()


def test_bad_clips_are_in_no_part_and_upset_no_balance(tmp_path: Path) -> None:
    good = make_clips([("a", f"film_{i}") for i in range(30)])
    bad = tuple(dataclasses.replace(clip, path=f"{clip.path}.bad", frames=0) for clip in good[:10])
    split = splits.apply(dataset(good + bad, tmp_path), splits.Grouped())
    assert split.split_counts() == {"train": 24, "val": 3, "test": 3, "": 10}
    assert {clip.path for clip in split.clips if not clip.split} == {clip.path for clip in bad}
    assert manifest.load(tmp_path) == split


def test_a_bad_clip_may_be_named_by_a_split_file(synth: Path) -> None:
    before = manifest.load(synth)
    (synth / before.clips[0].path).write_bytes(b"")
    after = splits.apply(index_folder(synth).manifest, splits.Official(fold=1))
    assert after.clips[0].split == ""


def test_indexing_anew_forgets_what_was_found_before(synth: Path) -> None:
    validate.check_dataset(manifest.load(synth))
    indexing.save(index_folder(synth))
    assert not (synth / "health.csv").exists()
    assert splits.current(manifest.load(synth)) == "none"
