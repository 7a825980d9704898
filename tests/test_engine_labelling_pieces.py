"""Long videos in pieces, as the workers of a cluster label them: here without a cluster."""

from pathlib import Path
from typing import Any

import pytest
import videos

from dali_pipelines.decode import indexed_video
from engine.labelling import cluster
from engine.labelling.discovery import FileFilter, Item, below, item_of
from engine.labelling.journal import Journal
from engine.labelling.label import LabelSettings, Progress, label
from engine.labelling.pieces import Pending, Piece, estimated_windows, parts_of
from engine.predictor import open_predictor

SETTINGS = LabelSettings(model="a model", window_s=1, stride_s=0.5, batch_size=4)
LONG, NUM_WINDOWS = ("packed.avi", "reordered.mp4", "hidden.mp4", "cut.avi"), 38


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four long ones: a packed bitstream, one with B-frames, one with an edit list, one cut short;
    and short ones."""
    root = tmp_path_factory.mktemp("films")
    settings: dict[str, Any] = {"frames": 400, "fps": 20, "size": (96, 72)}
    packed = videos.write_packed(root / "packed", **settings, gop=40, draw=videos.noise(1))
    videos.write_video(root / "reordered", codec="h264", **settings, draw=videos.noise(2))
    hidden = videos.write_video(root / "whole", codec="h264", **settings, draw=videos.noise(3))
    videos.cut_without_recoding(hidden, root / "hidden.mp4", 7)
    hidden.unlink()
    data = packed.read_bytes()
    (root / "cut.avi").write_bytes(data[: int(0.7 * len(data))])
    for number in range(3):
        path = root / f"short{number}"
        videos.write_video(path, codec="h264", frames=16, size=(96, 72), draw=videos.noise(number))
    (root / "broken.mp4").write_bytes(b"no video at all")
    return root


def contents(journal: Journal) -> list[tuple[Any, ...]]:
    rows = [*journal.rows("SELECT * FROM files ORDER BY name")]
    return [*rows, *journal.rows("SELECT * FROM windows ORDER BY name, number")]


def label_parts(
    parts: list[list[Piece]], model: Any, run: Path, journal: Journal, *, step: int = 1
) -> tuple[Progress, list[Pending]]:
    """As the driver and one worker do; with `step`, it is stopped before all parts are there."""
    worker, tally = cluster.Labeller(), Progress()
    worker._predictor = model
    gathered = cluster._Gathered(parts, journal, SETTINGS.model, tally, lambda tally: None)
    for part in parts[::step]:
        gathered.write(worker(cluster._table(part).to_pydict(), run, "cpu", SETTINGS))
    return tally, gathered.again()


def pending_in(films: Path, journal: Journal) -> list[Pending]:
    found = []
    for item in below(films, FileFilter()):
        is_done, known = journal.known_windows(item, SETTINGS.model)
        if not is_done:
            count = NUM_WINDOWS if item.name in LONG else 1
            found.append(Pending(item=item, known=known, num_windows=count))
    return found


@pytest.mark.slow
def test_pieces_in_any_order_give_what_one_reading_gives(
    run: Path, films: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow", reason="needs Ray: pip install -e '.[cluster]'")
    model = open_predictor(run, "cpu")
    with Journal(tmp_path / "whole") as journal:
        label(below(films, FileFilter()), model, journal, SETTINGS)
        expected = contents(journal)
    with Journal(tmp_path / "pieces") as journal:
        parts = parts_of(pending_in(films, journal), num_workers=4, num_threads=1)
        assert {piece.item.name for part in parts for piece in part if piece.is_range} == {*LONG}
        label_parts(parts, model, run, journal, step=-2)
        pending = pending_in(films, journal)
        rest = parts_of(pending, num_workers=3, num_threads=2)
        assert sum(map(len, rest)) < sum(map(len, parts))
        tally, again = label_parts(rest, model, run, journal)
        label_parts(parts_of(again, num_workers=3, num_threads=2), model, run, journal)
        assert contents(journal) == expected
        assert pending_in(films, journal) == []
        assert tally.report.flaws.keys() == {Path("cut.avi")}


def test_one_machine_goes_on_after_the_gap_that_a_cluster_left(tmp_path: Path) -> None:
    path = tmp_path / "film.avi"
    path.touch()
    item = item_of("film.avi", path)
    with Journal(tmp_path / "journal") as journal, journal.transaction() as base:
        base.execute("INSERT INTO files VALUES (?, 0, ?, 'm', 0, '')", (b"film.avi", item.mtime_ns))
        for number in (0, 1, 2, 5, 6):
            base.execute("INSERT INTO windows VALUES (?, ?, 0, 0, '')", (b"film.avi", number))
    with Journal(tmp_path / "journal") as journal:
        assert journal.status(item, "m") == (False, 3)
        assert journal.known_windows(item, "m") == (False, [0, 1, 2, 5, 6])
        assert journal.status(item, "another") == (False, 0)


def item_named(name: str) -> Item:
    return Item(name=name, path=Path(name), size=1, mtime_ns=0)


def test_short_files_are_in_parts_of_many_and_a_film_in_pieces() -> None:
    short = [Pending(item=item_named(str(number)), known=[]) for number in range(100)]
    parts = parts_of(short, num_workers=2, num_threads=4)
    assert [len(part) for part in parts] == [16] * 6 + [4]
    film = Pending(item=item_named("film"), known=[*range(64, 128), 700], num_windows=1000)
    pieces = [piece for part in parts_of([film], num_workers=2, num_threads=4) for piece in part]
    assert all(piece.is_range for piece in pieces)
    covered = {number for piece in pieces for number in range(piece.first, piece.stop or 1000)}
    assert covered >= {*range(1000)} - {*range(64, 128)}
    assert pieces[-1].stop is None
    assert parts_of([], num_workers=2, num_threads=4) == []


def test_many_films_stay_whole() -> None:
    films = [
        Pending(item=item_named(str(number)), known=[], num_windows=100) for number in range(90)
    ]
    parts = parts_of(films, num_workers=2, num_threads=8)
    assert not any(piece.is_range for part in parts for piece in part)
    assert max(len(part) for part in parts) <= 6


def test_the_length_of_a_large_file_is_in_its_header(
    films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = films / "reordered.mp4"
    assert estimated_windows(path, 1.0, 0.5) == 1
    monkeypatch.setattr(indexed_video, "KEEP_BELOW", 1000)
    assert abs(estimated_windows(path, 1.0, 0.5) - 39) <= 1
    assert estimated_windows(path, None, None) == 1
    assert estimated_windows(films / "broken.mp4", 1.0, None) == 1
    assert estimated_windows(films / "nothing.mp4", 1.0, None) == 1
