"""What was labelled so far, on disk after every batch: a SQLite file beside the results.

It holds raw answers, window by window; the results are made from it and from nothing else. So a run
that was killed goes on where it stood, and ends with the same bytes as one that was left alone.
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
from engine.labelling.source import is_gone

FORMAT = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (
    name BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, model TEXT, done INTEGER, reason TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS windows (
    name BLOB, number INTEGER, start_s REAL, end_s REAL, probabilities BLOB,
    PRIMARY KEY (name, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS left_out (name BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outputs (path BLOB PRIMARY KEY, checksum INTEGER) WITHOUT ROWID;
CREATE TEMP TABLE noted (name BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE taken (name BLOB PRIMARY KEY) WITHOUT ROWID;
"""
COLUMNS = {
    "files": ", size, mtime_ns, model, done, reason",
    "windows": ", number, start_s, end_s, probabilities",
    "left_out": "",
}
"""Beside the name, of the tables that are about files."""
IN_RESULTS = "name NOT IN (SELECT name FROM left_out)"
LABELLED = f"SELECT name FROM files WHERE done = 1 AND reason = '' AND {IN_RESULTS} ORDER BY name"
GOOD = "({0}.done = 1 AND {0}.reason = '' AND {0}.name NOT IN (SELECT name FROM {1}.left_out))"
TAKEN = f"""
INSERT INTO temp.taken
SELECT theirs.name FROM other.files AS theirs LEFT JOIN main.files AS ours
ON ours.name = whole(theirs.name)
WHERE ours.name IS NULL OR NOT {GOOD.format("ours", "main")}
OR ({GOOD.format("theirs", "other")} AND theirs.mtime_ns >= ours.mtime_ns)
"""
"""Files that are taken in from the journal `other`."""
BUSY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class WindowAnswer:
    """To one window of a file."""

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
    """Start, end, and a probability for each class."""


class Journal:
    """One process writes at a time; a second one is told so."""

    def __init__(self, path: Path, *, shown_as: Path | None = None) -> None:
        """`shown_as`: what errors call it, where it is a copy."""
        self.path = shown_as or path
        self._lock = threading.RLock()
        """Items are looked up by one thread, and answers written by another."""
        with self._told():
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
        """Say of what the labels are and by what they are made."""
        self.check(facts, mix=mix)
        written = {
            "format": FORMAT, "parts": None, **facts, "merged": is_merged, "finished": is_merged,
        }  # fmt: skip
        with self.transaction() as base:
            rows = [(key, json.dumps(value)) for key, value in written.items()]
            base.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

    def finish(self) -> None:
        """Say that a run went through all of its files."""
        with self.transaction() as base:
            base.execute("INSERT OR REPLACE INTO facts VALUES ('finished', 'true')")

    def is_finished(self) -> bool:
        """False where a run was stopped midway and didn't go on."""
        with self._told():
            (is_half_done,) = self._base.execute(
                f"SELECT EXISTS (SELECT * FROM files WHERE done = 0 AND {IN_RESULTS})"
            ).fetchone()
        return bool(self.facts().get("finished", True)) and not is_half_done

    def check(self, facts: dict[str, Any], *, mix: bool) -> None:
        """Raise UserError where it was made by other facts, as far as it knows them."""
        known, wanted = self.facts(), {"format": FORMAT, **facts}
        with self._in_words():
            for key in differing(known, wanted, mix=mix):
                words = f"{self.path} holds labels {difference(key, known[key], wanted[key])}"
                anew = "pass --fresh to begin anew, or another --out"
                if key == "root" and is_gone(known[key]):
                    anew += "; if it is the same folder, moved or renamed, --mix goes on with it"
                elif key in MIXABLE:
                    anew += "; --mix goes on, and keeps both"
                raise UserError(f"{words}: {anew}.")

    def facts(self) -> dict[str, Any]:
        with self._told():
            rows = self._base.execute("SELECT key, value FROM facts").fetchall()
            return {key: json.loads(value) for key, value in rows}

    def status(self, item: Item, model: str) -> tuple[bool, int]:
        """Whether the file is done, for good or bad, and else how many of its windows `model` has
        answered.

        A file that has changed is new. One that isn't there at the moment is done if anything is
        known of it: nothing better can be had now.
        """
        name = os.fsencode(item.name)
        with self._told():
            row = self._base.execute(
                "SELECT size, mtime_ns, done, model FROM files WHERE name = ?", (name,)
            ).fetchone()
            if row is None:
                return False, 0
            if not item.is_there:
                return True, 0
            if row[:2] != (item.size, item.mtime_ns):
                return False, 0
            if row[2]:
                return True, 0
            if row[3] != model:
                return False, 0  # a file's windows are answered by one model
            query = "SELECT count(*) FROM windows WHERE name = ?"
            return False, int(self._base.execute(query, (name,)).fetchone()[0])

    def write(
        self, answers: Iterable[WindowAnswer], failures: Iterable[tuple[Item, str]], model: str
    ) -> None:
        """All or nothing, and on the disk when this returns."""
        with self.transaction() as base:
            for each in answers:
                self._note(base, each.item, model, done=each.is_last, reason="")
                base.execute(
                    "INSERT OR REPLACE INTO windows VALUES (?, ?, ?, ?, ?)",
                    (
                        os.fsencode(each.item.name),
                        each.number,
                        each.start_s,
                        each.end_s,
                        each.probabilities.astype(np.float32).tobytes(),
                    ),
                )
            for item, reason in failures:
                self._note(base, item, model, done=True, reason=reason)
                name = os.fsencode(item.name)
                base.execute("DELETE FROM windows WHERE name = ?", (name,))

    def _note(
        self, base: sqlite3.Connection, item: Item, model: str, *, done: bool, reason: str
    ) -> None:
        """What was answered of the file before it changed is forgotten now, and no earlier."""
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
        """Whether a labelled file of this name is this one; None where there is none."""
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
        """The same items, remembered for `leave_out_others`."""
        with self._told():
            self._base.execute("DELETE FROM temp.noted")
        for item in items:
            with self._told():
                name = os.fsencode(item.name)
                self._base.execute("INSERT OR IGNORE INTO temp.noted VALUES (?)", (name,))
            yield item

    def leave_out_others(self, *, unread: Iterable[str] = ()) -> bool:
        """Take out of the results what isn't among the noted items; returns whether that changed
        anything.

        Their answers are kept, for when they come back. Nobody knows what is in folders that are
        `unread`, so what was there before stays in the results.
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
        with self._told():
            return int(self._base.execute("SELECT count(*) FROM left_out").fetchone()[0])

    def leave_out_nothing(self) -> None:
        with self.transaction() as base:
            base.execute("DELETE FROM left_out")

    def forget_failures(self) -> None:
        """So that they are tried again."""
        with self.transaction() as base:
            base.execute("DELETE FROM files WHERE reason != ''")

    def labelled(self) -> Iterator[LabelledFile]:
        """Every file that is done and not left out, by name; one at a time, however many."""
        with self._in_words():
            num_classes = len(self.facts().get("classes", ()))
        for (name,) in self.rows(LABELLED):
            rows = self.rows(
                "SELECT start_s, end_s, probabilities FROM windows WHERE name = ? ORDER BY number",
                name,
            )
            with self._in_words():
                windows = [
                    (float(start), float(end), np.frombuffer(each, np.float32))
                    for start, end, each in rows
                ]
                lengths = {len(each) for _, _, each in windows}
                if len(lengths) != 1 or (num_classes and lengths != {num_classes}):
                    raise ValueError("a file's answers are not one for each class")
                labelled = LabelledFile(name=os.fsdecode(name), windows=windows)
            yield labelled

    def names(self) -> Iterator[str]:
        """Of what `labelled` gives."""
        for (name,) in self.rows(LABELLED):
            with self._in_words():
                text = os.fsdecode(name)
            yield text

    def failures(self) -> Iterator[tuple[str, str]]:
        for name, reason in self.rows(
            f"SELECT name, reason FROM files WHERE reason != '' AND {IN_RESULTS} ORDER BY name"
        ):
            with self._in_words():
                failure = os.fsdecode(name), str(reason)
            yield failure

    def rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        with self._in_words():
            for row in self._base.execute(query, values):  # noqa: UP028 - it may outlive the base
                yield row

    def counts(self) -> tuple[int, int]:
        """Files labelled, and files that failed."""
        with self._told():
            labelled, failed = self._base.execute(
                "SELECT sum(done = 1 AND reason = ''), sum(reason != '') FROM files "
                f"WHERE {IN_RESULTS}"
            ).fetchone()
        return labelled or 0, failed or 0

    def num_unknown(self, other: "Journal") -> int:
        """How many files another journal knows, and this one doesn't."""
        query = "SELECT EXISTS (SELECT * FROM files WHERE name = ?)"
        names = (name for (name,) in other.rows("SELECT name FROM files"))
        return sum(not known for name in names for (known,) in self.rows(query, name))

    def merge_from(self, other: Path, *, below: Path | None = None) -> None:
        """All that another journal holds. Of a file that both know, the labels that are in the
        results go before those that aren't, and then the other's, unless ours are of a newer file.

        `below`: the folder that the other's names are relative to, where they become whole paths.
        """

        def whole(name: bytes) -> bytes:
            return name if below is None else os.fsencode(below / os.fsdecode(name))

        with self._told():
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
        """So that the file alone, without what SQLite keeps beside it, holds everything."""
        with self._told():
            (is_busy, *_) = self._base.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if is_busy:
                raise UserError(f"{self.path} can't be written to its end: run it again.")

    @classmethod
    @contextmanager
    def copy_of(cls, path: Path) -> Iterator["Journal"]:
        """To look into: the journal itself is neither locked nor changed in any byte."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "journal"
            journal_file.copy(path, copy)
            with cls(copy, shown_as=path) as journal:
                yield journal

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with self._told():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        """One thread at a time."""
        with self._in_words(), self._lock:
            yield

    def _in_words(self) -> AbstractContextManager[None]:
        return journal_file.in_words(self.path)
