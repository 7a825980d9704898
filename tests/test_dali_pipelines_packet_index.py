"""What is remembered of files is bounded, however many there are."""

from pathlib import Path

import pytest

from dali_pipelines import packet_index
from dali_pipelines.packet_index import IndexMemory


def test_the_latest_files_are_remembered_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packet_index, "MAX_REMEMBERED", 10 * packet_index.FILE_SIZE)
    memory = IndexMemory()
    paths = [tmp_path / str(number) for number in range(50)]
    for path in paths:
        path.touch()
        for _ in range(3):  # again and again counts once
            memory.put(path, None)
    assert [memory.get(path)[0] for path in paths] == [False] * 40 + [True] * 10
    paths[-1].write_bytes(b"changed")
    assert memory.get(paths[-1]) == (False, None)
