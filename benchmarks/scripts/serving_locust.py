"""For locust: uploads clips, 5% of them broken, and compares each answer with what is expected.

$EXPECTED is a file with the answer for each path, $REQUESTS their number; $COUNTS is written.
"""

import json
import os
import random
import threading
from pathlib import Path
from typing import Any

from locust import HttpUser, events, task
from locust.exception import StopUser

EXPECTED = json.loads(Path(os.environ["EXPECTED"]).read_text())
PATHS = sorted(EXPECTED)
LEFT = threading.Semaphore(int(os.environ["REQUESTS"]))
BROKEN = 0.05
BUSY = (429, 503)
working: set["Client"] = set()
COUNTS = dict.fromkeys(("right", "wrong", "broken", "broken but answered", "busy", "other"), 0)


class Client(HttpUser):
    def on_start(self) -> None:
        working.add(self)

    def on_stop(self) -> None:
        working.discard(self)
        if not working:
            self.environment.runner.greenlet.spawn(self.environment.runner.quit)

    @task
    def upload(self) -> None:
        if not LEFT.acquire(blocking=False):
            raise StopUser
        path = random.choice(PATHS)
        data = Path(path).read_bytes()
        is_broken = random.random() < BROKEN
        if is_broken:
            data = data[: len(data) // 20]
        while (kind := self._sent(data, EXPECTED[path], is_broken)) == "busy":
            COUNTS[kind] += 1
        COUNTS[kind] += 1

    def _sent(self, data: bytes, expected: dict[str, Any], is_broken: bool) -> str:
        files = {"video": data}
        with self.client.post("/v1/predict", files=files, catch_response=True) as answer:
            answer.success()
            if answer.status_code in BUSY:
                return "busy"
            if is_broken:
                return "broken" if answer.status_code == 422 else "broken but answered"
            if answer.status_code != 200:
                return "other"
            row = answer.json()
            is_same = all(row[name] == expected[name] for name in ("label", "end_s"))
            is_close = abs(row["confidence"] - expected["confidence"]) < 0.01
            return "right" if is_same and is_close else "wrong"


@events.quitting.add_listener
def write(**arguments: Any) -> None:
    Path(os.environ["COUNTS"]).write_text(json.dumps(COUNTS))
