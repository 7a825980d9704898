"""Waiting for what another process does."""

import time
from typing import Any


def wait_for(true: Any) -> None:
    end = time.monotonic() + 900
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)
