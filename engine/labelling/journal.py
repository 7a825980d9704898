"""The journal of a labelling run: a SQLite file beside the results, written after every batch.

It holds the raw predictions of each window; the results are generated from it alone. So a run that
was killed resumes where it stopped, and ends with the same bytes as an uninterrupted run.
"""

import json
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.errors import UserError
from engine.labelling import journal_file
from engine.labelling.claims import Claims
from engine.labelling.discovery import Item
from engine.labelling.journal_facts import MIXABLE, difference, differing
from engine.labelling.journal_schema import COLUMNS, FORMAT, IN_RESULTS, LABELLED, SCHEMA, TAKEN
from engine.labelling.source import is_gone

BUSY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class WindowAnswer:
    """Prediction for one window of a file."""

    item: Item
    number: int
    start_s: float
    end_s: float
    probabilities: NDArray[np.float32]
    is_last: bool


@dataclass(frozen=True, kw_only=True)
class LabelledFile:
    name: str
    windows: list[tuple[float, float, NDArray[np.float32]]]
    """(start, end, probabilities) of each window."""


class Journal:
    """Predictions and failures of a labelling run; raises UserError if another process writes it.

    Args:
        path: The SQLite file, created if it doesn't exist.
        shown_as: Path to name in errors, if `path` is a temporary copy.
    """

    def __init__(self, path: Path, *, shown_as: Path | None = None) -> None:
        self.path = shown_as or path
        self._lock = threading.RLock()
        """One thread looks items up while another writes predictions."""
        with self._locked():
            self._base = sqlite3.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._base.execute("PRAGMA trusted_schema=OFF")
            self._base.execute("PRAGMA cell_size_check=ON")
            self._base.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=FULL")
            self._base.executescript(SCHEMA)
        self.claims = Claims(self.path, self.transaction)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()

    def bind(self, facts: dict[str, Any], *, mix: bool, is_merged: bool = False) -> None:
        """Store which videos are labelled, and with which model and settings."""
        self.check(facts, mix=mix)
        written = {
            "format": FORMAT, "parts": None, **facts, "merged": is_merged, "finished": is_merged,
        }  # fmt: skip
        with self.transaction() as base:
            rows = [(key, json.dumps(value)) for key, value in written.items()]
            base.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

    def finish(self) -> None:
        """Record that a run processed all of its files."""
        with self.transaction() as base:
            base.execute("INSERT OR REPLACE INTO facts VALUES ('finished', 'true')")

    def is_finished(self) -> bool:
        """False if a run was interrupted and not resumed."""
        with self._locked():
            (is_half_done,) = self._base.execute(
                f"SELECT EXISTS (SELECT * FROM files WHERE done = 0 AND {IN_RESULTS})"
            ).fetchone()
        return bool(self.facts().get("finished", True)) and not is_half_done

    def check(self, facts: dict[str, Any], *, mix: bool) -> None:
        """Raise UserError if the journal was written with different facts."""
        known, given = self.facts(), {"format": FORMAT, **facts}
        with self._explained():
            for key in differing(known, given, mix=mix):
                problem = f"{self.path} holds labels {difference(key, known[key], given[key])}"
                fix = "pass `fresh=True` to start over, or another `out`"
                if key == "root" and is_gone(known[key]):
                    fix += "; if the same folder was moved or renamed, `mix=True` continues with it"
                elif key in MIXABLE:
                    fix += "; `mix=True` continues and keeps both"
                raise UserError(f"{problem}: {fix}.")

    def facts(self) -> dict[str, Any]:
        with self._locked():
            rows = self._base.execute("SELECT key, value FROM facts").fetchall()
            return {key: json.loads(value) for key, value in rows}

    def status(self, item: Item, model: str) -> tuple[bool, int]:
        """Look up whether a file is done, that is labelled or failed.

        A file that changed counts as new. A file that doesn't exist at the moment counts as done if
        the journal has it.

        Returns:
            (True, 0) if the file is done, or (False, number of its first windows, without a gap,
            that `model` has predicted).
        """
        is_done, numbers = self.known_windows(item, model)
        return is_done, next((n for n, number in enumerate(numbers) if n != number), len(numbers))

    def known_windows(self, item: Item, model: str) -> tuple[bool, list[int]]:
        """Like `status`, but with the numbers of all windows of a file that isn't done."""
        name = os.fsencode(item.name)
        with self._locked():
            row = self._base.execute(
                "SELECT size, mtime_ns, done, model FROM files WHERE name = ?", (name,)
            ).fetchone()
            if row is None:
                return False, []
            if not item.is_there:
                return True, []
            if row[:2] != (item.size, item.mtime_ns):
                return False, []
            if row[2]:
                return True, []
            if row[3] != model:
                return False, []  # all windows of a file must come from one model
            query = "SELECT number FROM windows WHERE name = ? ORDER BY number"
            return False, [int(number) for (number,) in self._base.execute(query, (name,))]

    def write(
        self,
        answers: Iterable[WindowAnswer],
        failures: Iterable[tuple[Item, str]],
        model: str,
        complete: Iterable[Item] = (),
    ) -> None:
        """Write predictions and failures atomically; they are on disk when this returns.

        Args:
            answers: Predictions for windows; the last window of a file completes it.
            failures: Files that can't be read, with the reasons.
            model: Digest of the model.
            complete: Files of which all windows are there, in whatever order they were written.
        """
        with self.transaction() as base:
            for answer in answers:
                self._note(base, answer.item, model, done=answer.is_last, reason="")
                base.execute(
                    "INSERT OR REPLACE INTO windows VALUES (?, ?, ?, ?, ?)",
                    (
                        os.fsencode(answer.item.name),
                        answer.number,
                        answer.start_s,
                        answer.end_s,
                        answer.probabilities.astype(np.float32).tobytes(),
                    ),
                )
            for item in complete:
                self._note(base, item, model, done=True, reason="")
            for item, reason in failures:
                self._note(base, item, model, done=True, reason=reason)
                name = os.fsencode(item.name)
                base.execute("DELETE FROM windows WHERE name = ?", (name,))

    def _note(
        self, base: sqlite3.Connection, item: Item, model: str, *, done: bool, reason: str
    ) -> None:
        """Write the state of a file; predictions from before the file changed are deleted."""
        name, now = os.fsencode(item.name), (item.size, item.mtime_ns, model)
        query = "SELECT size, mtime_ns, model FROM files WHERE name = ?"
        before = base.execute(query, (name,)).fetchone()
        if before not in (None, now):
            base.execute("DELETE FROM windows WHERE name = ?", (name,))
        base.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)",
            (name, *now, int(done), reason),
        )

    def knows(self, item: Item) -> bool | None:
        """Whether the labelled file of this name is unchanged; None if there is none."""
        row = next(
            self.rows(
                "SELECT size, mtime_ns FROM files WHERE name = ? AND done = 1 AND reason = '' "
                "AND size > 0",
                os.fsencode(item.name),
            ),
            None,
        )
        return None if row is None else row == (item.size, item.mtime_ns)

    def noting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and record them for `leave_out_others`."""
        with self._locked():
            self._base.execute("DELETE FROM temp.noted")
        for item in items:
            with self._locked():
                name = os.fsencode(item.name)
                self._base.execute("INSERT OR IGNORE INTO temp.noted VALUES (?)", (name,))
            yield item

    def leave_out_others(self, *, unread: Iterable[str] = ()) -> bool:
        """Exclude files from the results that are not among the items of `noting`.

        Their predictions are kept, in case the files come back. Files in `unread` folders, which
        couldn't be read, stay in the results. Returns whether the set of excluded files changed.
        """
        with self.transaction() as base:
            before = base.execute("SELECT name FROM left_out ORDER BY name").fetchall()
            base.execute("DELETE FROM left_out")
            base.execute(
                "INSERT INTO left_out SELECT name FROM files "
                "WHERE name NOT IN (SELECT name FROM temp.noted)"
            )
            for folder in map(os.fsencode, unread):
                base.execute(
                    "DELETE FROM left_out WHERE name = ? OR substr(name, 1, ?) = ?",
                    (folder, len(folder) + 1, folder + b"/"),
                )
            return before != base.execute("SELECT name FROM left_out ORDER BY name").fetchall()

    def num_left_out(self) -> int:
        with self._locked():
            return int(self._base.execute("SELECT count(*) FROM left_out").fetchone()[0])

    def leave_out_nothing(self) -> None:
        with self.transaction() as base:
            base.execute("DELETE FROM left_out")

    def forget_failures(self) -> None:
        """Delete failures, so that the files are tried again."""
        with self.transaction() as base:
            base.execute("DELETE FROM files WHERE reason != ''")

    def labelled(self) -> Iterator[LabelledFile]:
        """Yield labelled files that are in the results, sorted by name, one at a time."""
        with self._explained():
            num_classes = len(self.facts().get("classes", ()))
        for (name,) in self.rows(LABELLED):
            rows = self.rows(
                "SELECT start_s, end_s, probabilities FROM windows WHERE name = ? ORDER BY number",
                name,
            )
            with self._explained():
                windows = [
                    (float(start), float(end), np.frombuffer(data, np.float32))
                    for start, end, data in rows
                ]
                lengths = {len(probabilities) for _, _, probabilities in windows}
                if len(lengths) != 1 or (num_classes and lengths != {num_classes}):
                    raise ValueError(
                        "the number of probabilities differs from the number of classes"
                    )
                labelled = LabelledFile(name=os.fsdecode(name), windows=windows)
            yield labelled

    def names(self) -> Iterator[str]:
        """Yield the names of the files that `labelled` yields."""
        for (name,) in self.rows(LABELLED):
            with self._explained():
                text = os.fsdecode(name)
            yield text

    def failures(self) -> Iterator[tuple[str, str]]:
        for name, reason in self.rows(
            f"SELECT name, reason FROM files WHERE reason != '' AND {IN_RESULTS} ORDER BY name"
        ):
            with self._explained():
                failure = os.fsdecode(name), str(reason)
            yield failure

    def rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        with self._explained():
            for row in self._base.execute(query, values):  # noqa: UP028 - may outlive the connection
                yield row

    def counts(self) -> tuple[int, int]:
        """Number of labelled files, and of failed files."""
        with self._locked():
            labelled, failed = self._base.execute(
                "SELECT sum(done = 1 AND reason = ''), sum(reason != '') FROM files "
                f"WHERE {IN_RESULTS}"
            ).fetchone()
        return labelled or 0, failed or 0

    def num_unknown(self, other: "Journal") -> int:
        """Number of files in the other journal that are not in this one."""
        query = "SELECT EXISTS (SELECT * FROM files WHERE name = ?)"
        names = (name for (name,) in other.rows("SELECT name FROM files"))
        return sum(not known for name in names for (known,) in self.rows(query, name))

    def merge_from(self, other: Path, *, below: Path | None = None) -> None:
        """Merge all files of another journal into this one.

        If both have a file, labels in the results win over labels that are not; otherwise the other
        journal wins, unless its file is older. If `below` is given, names in the other journal
        become absolute paths below this folder.
        """

        def whole(name: bytes) -> bytes:
            return name if below is None else os.fsencode(below / os.fsdecode(name))

        with self._locked():
            self._base.create_function("whole", 1, whole)
            self._base.execute("ATTACH ? AS other", (os.fsencode(other),))
            try:
                with self.transaction() as base:
                    base.execute("DELETE FROM temp.taken")
                    base.execute(TAKEN)
                    for table in ("windows", "left_out"):
                        base.execute(
                            f"DELETE FROM {table} WHERE name IN (SELECT whole(name) FROM taken)"
                        )
                    for table, columns in COLUMNS.items():
                        base.execute(
                            f"INSERT OR REPLACE INTO {table} SELECT whole(name){columns} "
                            f"FROM other.{table} WHERE name IN (SELECT name FROM taken)"
                        )
            finally:
                self._base.execute("DETACH other")

    def settle(self) -> None:
        """Move the write-ahead log into the main file, which then holds everything."""
        with self._locked():
            (is_busy, *_) = self._base.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if is_busy:
                raise UserError(
                    f"{self.path} couldn't be written completely: run the same command again."
                )

    @classmethod
    @contextmanager
    def copy_of(cls, path: Path) -> Iterator["Journal"]:
        """Open a temporary copy; the journal itself is neither locked nor changed."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "journal"
            journal_file.copy(path, copy)
            with cls(copy, shown_as=path) as journal:
                yield journal

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with self._locked():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Allow one thread at a time, and explain SQLite's errors."""
        with self._explained(), self._lock:
            yield

    def _explained(self) -> AbstractContextManager[None]:
        return journal_file.explained_errors(self.path)
