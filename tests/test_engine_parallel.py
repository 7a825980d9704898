"""Workers that crash, hang or fail cost their own item; order and results stay."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from engine.parallel import run_each


def work(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == 5:
        time.sleep(60)
    if item == 7:
        raise ValueError("seven")
    return item * item


def test_each_item_gets_its_own_outcome_in_order() -> None:
    outcomes = list(run_each(work, range(40), title="test", timeout_s=1.5))
    assert [outcome.item for outcome in outcomes] == list(range(40))
    errors = {outcome.item: str(outcome.error) for outcome in outcomes if outcome.error}
    assert errors == {
        3: "crashed the decoder (SIGSEGV)",
        5: "took more than 1.5 s",
        7: "seven",
    }
    assert all(o.value == o.item**2 for o in outcomes if o.item not in errors)


def slow(folder: Path, item: int) -> int:
    (folder / str(item)).touch()
    time.sleep(0.05)
    return os.getpid()


def test_closing_early_ends_the_workers(tmp_path: Path) -> None:
    outcomes = run_each(partial(slow, tmp_path), range(1000), title="test")
    workers = {next(outcomes).value for _ in range(20)}
    outcomes.close()
    assert len(list(tmp_path.iterdir())) < 1000
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_nothing_to_do() -> None:
    assert list(run_each(work, [], title="test")) == []
