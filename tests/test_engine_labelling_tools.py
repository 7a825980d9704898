"""FiftyOne and Label Studio open what `engine label` writes for them, and find the videos.

Both need versions of packages other than ours, so that they are looked for outside, too:
FIFTYONE_PYTHON is a Python with fiftyone, and LABEL_STUDIO the command `label-studio`. FiftyOne
also needs MongoDB: its own, or the one that FIFTYONE_DATABASE_URI names.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import videos
from tracked import free_port

CLASSES = ["fall", "run", "wave"]
NAMES = [
    "top & level.mp4", "a b/tom & jerry #1 + 50%.mp4", "ünï çödé/日本 100%25.mp4",
    "plus+plus/x.mp4", "odd/q?=&;,'\".mp4",
]  # fmt: skip
TOKEN = "0123456789abcdef" * 2 + "01234567"
WAITING_S = 1200.0
INTERFACE = (
    '<View><Video name="video" value="$video"/><Choices name="label" toName="video">'
    + "".join(f'<Choice value="{name}"/>' for name in CLASSES)
    + "</Choices></View>"
)
READ_DATASET = """
import json, sys
import fiftyone
dataset = fiftyone.Dataset.from_dir(sys.argv[1], dataset_type=fiftyone.types.FiftyOneDataset)
dataset.compute_metadata()  # opens each video
found = {
    each.filepath: [each.media_type, each.metadata.total_frame_count, each.prediction.label,
                    each.prediction.confidence]
    for each in dataset
}
dataset.delete()
print("FOUND", json.dumps(found))
"""


@pytest.fixture(scope="module")
def oddly_named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tools") / "my films"
    for number, name in enumerate(NAMES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        videos.write_video(
            path, codec="h264", frames=8 + number, size=(96, 72), draw=videos.noise(number)
        )
    return root


def label(run_engine: Any, films: Path, run: Path, out: Path, name: str) -> dict[str, Any]:
    """Write the labels in this format, and return the row of each file."""
    rows = out.with_suffix(".jsonl")
    for path, each in ((out, name), (rows, "jsonl")):
        result = run_engine("label", films, "--model", run, "--out", path, "--format", each)
        assert result.returncode == 0, result.stderr
    return {row["path"]: row for row in map(json.loads, rows.read_text().splitlines())}


@pytest.mark.slow
def test_fiftyone_opens_its_file(
    run_engine: Any, oddly_named: Path, run: Path, tmp_path: Path
) -> None:
    python = os.environ.get("FIFTYONE_PYTHON", sys.executable)
    there = subprocess.run([python, "-c", "import fiftyone.core.config"], capture_output=True)
    if there.returncode:
        pytest.skip("fiftyone isn't installed; FIFTYONE_PYTHON may name a Python that has it")
    out = tmp_path / "films51" / "samples.json"
    out.parent.mkdir()
    rows = label(run_engine, oddly_named, run, out, "fiftyone")
    env = {**os.environ, "FIFTYONE_DO_NOT_TRACK": "1"}
    env.pop("PYTHONPATH", None)
    read = subprocess.run(
        [python, "-c", READ_DATASET, out.parent], capture_output=True, text=True, env=env
    )
    if read.returncode and "mongod" in read.stderr.lower():
        pytest.skip("FiftyOne finds no MongoDB; FIFTYONE_DATABASE_URI may name one")
    assert read.returncode == 0, read.stderr
    (line,) = [line for line in read.stdout.splitlines() if line.startswith("FOUND ")]
    assert json.loads(line.removeprefix("FOUND ")) == {
        str(oddly_named / name): [
            "video", 8 + number, rows[name]["label"], pytest.approx(rows[name]["confidence"])
        ]
        for number, name in enumerate(NAMES)
    }  # fmt: skip


class LabelStudio:
    """A client of a server on this machine."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def call(self, path: str, body: Any = None) -> bytes:
        request = urllib.request.Request(
            urljoin(self.address, path),
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.read()

    def is_up(self) -> bool:
        try:
            self.call("/health")
        except OSError:
            return False
        return True


@pytest.mark.slow
def test_label_studio_imports_its_file_and_plays_the_videos(
    run_engine: Any, oddly_named: Path, run: Path, tmp_path: Path
) -> None:
    command = os.environ.get("LABEL_STUDIO") or shutil.which("label-studio")
    if not command:
        pytest.skip("label-studio isn't installed; LABEL_STUDIO may name the command")
    rows = label(run_engine, oddly_named, run, tmp_path / "tasks.json", "labelstudio")
    port = free_port()
    env = {
        **os.environ,
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(oddly_named.parent),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "COLLECT_ANALYTICS": "false", "SENTRY_DSN": "", "LATEST_VERSION_CHECK": "false",
    }  # fmt: skip
    env.pop("PYTHONPATH", None)
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [
                command, "start", "--no-browser", "--port", str(port),
                "--internal-host", "127.0.0.1", "--data-dir", str(tmp_path / "studio"),
                "--username", "a@example.com", "--password", "secret12345", "--user-token", TOKEN,
            ],
            env=env, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        studio, end = LabelStudio(port), time.monotonic() + WAITING_S
        while not studio.is_up():
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            assert time.monotonic() < end, "the server doesn't answer"
            time.sleep(1)
        project = json.loads(
            studio.call("/api/projects", {"title": "films", "label_config": INTERFACE})
        )["id"]
        storage = {"project": project, "path": str(oddly_named), "use_blob_urls": True}
        studio.call("/api/storages/localfiles", storage)
        tasks = json.loads((tmp_path / "tasks.json").read_text())
        imported = json.loads(studio.call(f"/api/projects/{project}/import", tasks))
        assert (imported["task_count"], imported["prediction_count"]) == (len(NAMES), len(NAMES))
        listed = json.loads(studio.call(f"/api/tasks?project={project}&fields=all"))["tasks"]
        answers = {}
        for task in listed:
            whole = json.loads(studio.call(f"/api/tasks/{task['id']}"))
            (prediction,) = whole["predictions"]
            (choice,) = prediction["result"][0]["value"]["choices"]
            answers[studio.call(whole["data"]["video"])] = (choice, prediction["score"])
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert answers == {
        (oddly_named / name).read_bytes(): (row["label"], pytest.approx(row["confidence"]))
        for name, row in rows.items()
    }
