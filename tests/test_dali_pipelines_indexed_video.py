"""What is remembered of files is bounded, however many there are."""

from pathlib import Path

import pytest

from dali_pipelines.decode import indexed_video
from dali_pipelines.decode.indexed_video import FileScan, IndexMemory


def test_the_latest_files_are_remembered_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexed_video, "MAX_REMEMBERED", 10 * indexed_video.FILE_SIZE)
    memory = IndexMemory()
    paths = [tmp_path / str(number) for number in range(50)]
    for path in paths:
        path.touch()
        for _ in range(3):  # again and again counts once
            memory.put(path, FileScan(index=None, is_packed=False, is_whole=True))
    assert [memory.get(path) is not None for path in paths] == [False] * 40 + [True] * 10
    paths[-1].write_bytes(b"changed")
    assert memory.get(paths[-1]) is None
