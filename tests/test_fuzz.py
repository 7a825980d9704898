"""Damaged files of every kind that we parse: read, or refused in words. See fuzz.py.

FUZZ_SECONDS=600 makes each kind last so long; what is found then stays where pytest says.
"""

import os
from pathlib import Path

import fuzz
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data import manifest
from engine.errors import UserError

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
COUNTS = {"video": 150, "rar": 60, "journal": 60, "state": 100, "image": 150}
"""How many files of a kind; of the others more, since they cost next to nothing."""

cells = st.one_of(
    st.text(max_size=8),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["..", "/", "../a", "a/../..", ".", "train", "1e300", "", '"', "\0", "9" * 40]),
)


@pytest.mark.slow
@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_damaged_files_are_read_or_refused(target: str, tmp_path: Path) -> None:
    seeds = fuzz.seeds_of(target, tmp_path / "seeds")
    work = tmp_path / "work"
    work.mkdir()
    count = COUNTS.get(target, 400)
    answers, found = fuzz.hammer(target, seeds, work, count=count, seconds=SECONDS)
    assert not found
    assert answers.total() >= count
    assert answers["read"] > 5  # else it might refuse what is sound


@settings(max_examples=200, derandomize=True)
@given(st.lists(st.lists(cells, min_size=8, max_size=10), max_size=4))
def test_a_manifest_of_any_cells_is_read_or_refused(tmp_path_factory, rows) -> None:
    root = tmp_path_factory.getbasetemp()
    lines = [",".join(manifest.COLUMNS), *(",".join(row) for row in rows)]
    path = root / manifest.FILE_NAME
    path.write_text("\n".join(lines), "utf-8", "surrogatepass")
    try:
        for clip in manifest.load(root).clips:
            assert os.path.normpath(root / clip.path).startswith(str(root))
    except UserError:
        pass
