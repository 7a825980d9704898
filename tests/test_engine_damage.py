"""What commands say of files that are packed, damaged or cut short; on real encoded videos."""

import csv
import shutil
from pathlib import Path

import pytest
import videos
from conftest import RunEngine

from engine.data import manifest, validate
from engine.data.index import index_folder, save

BAD = {"run/run0.avi", "run/run1.avi", "walk/walk0.avi", "walk/walk1.avi"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of packed clips; in each one is damaged and one cut, the others are sound."""
    root = tmp_path_factory.mktemp("damage") / "clips"
    for label in ("run", "walk"):
        (root / label).mkdir(parents=True)
        for number in range(8):
            videos.write_packed(root / label / f"{label}{number}.avi", frames=40, draw=videos.noisy)
        videos.damage(root / label / f"{label}0.avi", 3, 9)
        cut = root / label / f"{label}1.avi"
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    return root


def test_check_calls_packed_files_fine_and_damaged_ones_bad(
    clips: Path, run_engine: RunEngine, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(clips, tmp_path / "clips"))
    save(index_folder(root))
    done = run_engine("data", "check", root)
    assert done.returncode == 1
    assert "16 clips are packed bitstreams (DivX, Xvid), which is fine" in done.stdout
    assert "another number of frames" not in done.stdout
    with (root / validate.FILE_NAME).open() as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    bad = {path: row["reason"] for path, row in rows.items() if row["status"] == "bad"}
    assert {path.split("/")[1] for path in bad} == {
        "run0.avi",
        "run1.avi",
        "walk0.avi",
        "walk1.avi",
    }
    assert "damaged: " in bad["run/run0.avi"]
    assert "cut short: " in bad["run/run1.avi"]
    assert {row["notes"] for row in rows.values()} == {"packed bitstream"}
    assert {row["frames"] for path, row in rows.items() if path not in bad} == {"40"}


@pytest.mark.slow
def test_label_gives_no_label_to_what_check_calls_bad(
    clips: Path, run: Path, run_engine: RunEngine, tmp_path: Path
) -> None:
    out = tmp_path / "labels.csv"
    done = run_engine("label", clips, "--model", run, "--out", out)
    assert done.returncode == 1, done.stderr
    with out.open() as file:
        labelled = {row["path"] for row in csv.DictReader(file)}
    with (tmp_path / "failures-labels.csv").open() as file:
        failed = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert len(labelled) == 12
    assert failed.keys() == BAD
    assert "frames that are wanted don't decode" in failed["run/run0.avi"]
    assert "cut short" in failed["walk/walk1.avi"]


@pytest.mark.slow
def test_training_and_testing_tell_the_damage_that_they_met(
    clips: Path, run_engine: RunEngine, tmp_path: Path
) -> None:
    """Nobody ran `check` before, and the manifest counts what is there."""
    root = Path(shutil.copytree(clips, tmp_path / "clips"))
    found = index_folder(root).manifest
    parts = ["train", "train", "train", "train", "val", "val", "test", "test"] * 2
    with_parts = found.with_splits(parts)  # type: ignore[arg-type]
    with_parts.save()
    assert manifest.load(root).split_counts()["train"] == 8
    out = tmp_path / "trained"
    done = run_engine(
        "train", "--data", root, "--out", out, "--model", "cnn-lstm", "--preset", "small",
        "--epochs", 1, "--batch-size", 4, "--frames", 4, "--size", 64,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "damaged frames of 2 files were used" in done.stderr
    assert "`engine data check` lists the bad ones" in done.stderr
    tested = run_engine("evaluate", out, "--data", root, "--split", "train")
    assert tested.returncode == 0, tested.stderr
    assert "damaged frames of 2 files were used" in tested.stdout
