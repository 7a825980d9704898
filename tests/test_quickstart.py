"""docs/quickstart.ipynb: its cells run from the first to the last, and show what they show here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from source_tree import ROOT

NOTEBOOK = ROOT / "docs/quickstart.ipynb"


def code_cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_every_cell_was_executed_and_none_failed() -> None:
    assert [cell["execution_count"] for cell in code_cells()] == list(
        range(1, len(code_cells()) + 1)
    )
    assert not [output for cell in code_cells() for output in cell["outputs"] if "ename" in output]


@pytest.mark.slow
def test_the_cells_run(tmp_path: Path) -> None:
    """With fewer clips and epochs than in the notebook, since it is not about accuracy here."""
    source = "\n".join("".join(cell["source"]) for cell in code_cells())
    for shown, quick in (("clips_per_class=80", "clips_per_class=10"), ("epochs=15", "epochs=1")):
        assert source.count(shown) == 1
        source = source.replace(shown, quick)
    source = source.replace('"auto")', '"eager")')
    result = subprocess.run(
        [sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "MPLBACKEND": "Agg"}, timeout=900,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "same label on 100%" in result.stdout
    assert "broken.avi can't be opened as video" in result.stdout
