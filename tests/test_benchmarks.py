"""The parts of the benchmarks that nothing else runs here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import videos
from rows import SMALL, rows_of

from benchmarks import readme
from benchmarks.gpu_proof import bytes_to_the_card, training_steps
from benchmarks.harness import interleaved, summary
from benchmarks.stages import backends
from benchmarks.stages.loader import decode_by_dali
from dali_pipelines.loaders.loader_config import LoaderConfig
from engine.models.registry import FAMILIES


def test_ways_run_in_turn_and_wide_spreads_are_told() -> None:
    order: list[str] = []

    def way(name: str) -> int:
        order.append(name)
        return 10

    rates = interleaved({"a": lambda: way("a"), "b": lambda: way("b")}, repeats=3)
    assert order == list("ababab")
    assert [len(each) for each in rates.values()] == [3, 3]
    assert summary("a", [100, 104, 102]) == {
        "name": "a", "clips_per_s": 102, "repeats": [100, 104, 102], "spread": 0.039, "wide": False,
    }  # fmt: skip
    assert summary("a", [50, 100, 110])["wide"]


def test_decoding_by_dali_alone(tmp_path: Path) -> None:
    paths = [videos.write_video(tmp_path / f"{n}", codec="vp9") for n in range(3)]
    assert decode_by_dali(rows_of(paths), LoaderConfig(spec=SMALL, batch_size=2), gpu=None) == 3


def test_bytes_to_the_card(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", size=(320, 240))
    found = bytes_to_the_card(rows_of([path]))
    assert found == {"as_file": path.stat().st_size, "as_frames": 8 * 256 * 341 * 3}


def test_the_gpu_proof_says_when_there_is_none() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_proof"], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "needs an NVIDIA GPU; here there is no NVIDIA driver" in result.stderr


def test_training_steps_are_timed_on_any_device() -> None:
    rows = training_steps("small", batch_size=2, repeats=1)
    assert {row["family"] for row in rows} == set(FAMILIES)
    assert {row["name"] for row in rows} == {"fp32", "bf16"}
    assert all(row["clips_per_s"] > 0 for row in rows)


def test_every_backend_that_runs_here_is_a_row() -> None:
    found = backends.measure(
        "vit-lstm", "small", batch=2, repeats=1, precisions=["fp32", "bf16"], with_compile=False,
        backends=["eager", "openvino", "onnx", "tensorrt"],
    )  # fmt: skip
    rows = {row["name"]: row for row in found["rows"]}
    assert {"eager fp32", "openvino fp32", "onnx fp32"} <= set(rows)
    assert all("error" not in row for row in rows.values())
    assert rows["openvino fp32"]["max_error"] < 1e-3
    assert rows["openvino fp32"]["share_of_peak"] > 0


def test_figures_in_the_docs_are_those_of_the_results() -> None:
    shown = set()
    for page in readme.PAGES:
        text = page.read_text()
        shown |= {found[1] for found in readme.SECTION.findall(text)}
        assert readme.render(text) == text  # else: make readme
    assert shown == readme.SECTIONS.keys()


def test_every_link_and_picture_in_the_docs_leads_somewhere() -> None:
    for page in readme.PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), (page, target)
