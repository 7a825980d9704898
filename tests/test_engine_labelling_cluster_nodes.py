"""Labelling on a Ray cluster of several nodes: one is killed midway, and one joins late."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import videos
from waiting import wait_for

from dali_pipelines.decode.indexed_video import KEEP_BELOW

pytestmark = pytest.mark.slow

OUTPUTS = ("labels.csv", "segments.csv", "failures-labels.csv", "vtt")


def static(index: int, width: int, height: int) -> Any:
    """Noise that hardly compresses, in a color that changes each four frames."""
    color = np.random.default_rng(index // 4).integers(0, 56, 3)
    noise = np.random.default_rng(index).integers(0, 200, (height, width, 3))
    return (noise + color).astype(np.uint8)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some short ones, a long one that is divided between workers, and one of which a piece can't
    be read."""
    root = tmp_path_factory.mktemp("films") / "films"
    root.mkdir()
    for number in range(6):
        videos.write_video(
            root / f"short{number}", codec="h264", frames=16, size=(96, 72),
            draw=videos.noise(number),
        )  # fmt: skip
    long = videos.write_video(root / "long", frames=1000, fps=20, size=(192, 144), draw=static)
    whole = long.read_bytes()
    assert len(whole) > 1.1 * KEEP_BELOW
    (root / "damaged.avi").write_bytes(whole[: int(0.95 * len(whole))])
    (root / "broken.mp4").write_bytes(b"no video at all")
    return root


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Three nodes with a core each; the first one can't be killed without the others."""
    pytest.importorskip("ray", reason="needs Ray: pip install -e '.[cluster]'")
    from ray.cluster_utils import Cluster

    each = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=each)
    try:
        cluster.each = each
        cluster.others = [cluster.add_node(**each) for _ in range(2)]
        yield cluster
    finally:
        cluster.shutdown()


def labellers_of(node: Any) -> list[int]:
    """The processes of a node that label; they are children of its raylet."""
    (raylet,) = node.all_processes["raylet"]
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            words = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == raylet.process.pid and words.startswith(b"ray::") and b"Labeller" in words:
            found.append(int(path.name))
    return found


def command(run: Path, films: Path, out: Path, *others: object) -> list[str]:
    words = [
        sys.executable, "-m", "engine", "label", films, "--model", run, "--out", out,
        "--window", 1, "--stride", 0.25, "--batch-size", 2, "--device", "cpu",
        "--segments", out.with_name("segments.csv"), "--vtt", out.with_name("vtt"), *others,
    ]  # fmt: skip
    return list(map(str, words))


def written(out: Path) -> dict[str, bytes]:
    paths = [path for name in OUTPUTS for path in (out.with_name(name), *out.parent.glob("vtt/*"))]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def test_a_node_that_is_killed_and_one_that_joins_change_no_byte(
    run: Path, films: Path, cluster: Any, tmp_path: Path
) -> None:
    out = tmp_path / "cluster" / "labels.csv"
    process = subprocess.Popen(
        command(run, films, out, "--cluster"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": cluster.address},
    )  # fmt: skip
    killed, _ = cluster.others
    late = None
    try:
        wait_for(lambda: labellers_of(killed) or process.poll() is not None)
        cluster.remove_node(killed, allow_graceful=False)
        late = cluster.add_node(**cluster.each)
        wait_for(lambda: labellers_of(late) or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        output, errors = process.communicate(timeout=900)
    finally:
        process.kill()
    assert process.returncode == 1, errors
    assert "8 files labelled" in output
    alone = tmp_path / "alone" / "labels.csv"
    result = subprocess.run(command(run, films, alone), capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert written(out) == written(alone)
    assert len(written(out)) == 3 + 8
