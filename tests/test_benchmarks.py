"""The parts of the benchmarks that nothing else runs here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import videos
from odd_videos import FILES
from rows import SMALL, rows_of

from benchmarks import readme
from benchmarks.gpu_figures import gpu_limits
from benchmarks.gpu_proof import train_steps
from benchmarks.gpu_proof.__main__ import PARTS
from benchmarks.gpu_proof.step import Context, run
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


@pytest.mark.slow
def test_the_gpu_proof_says_of_each_step_why_it_cannot_run_here(tmp_path: Path) -> None:
    """Also with a Python that has none of our packages."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    bare = Path(sys.base_prefix) / "bin" / "python3"
    for number, python in enumerate((sys.executable, bare)):
        out = tmp_path / str(number)
        ran = subprocess.run(
            [python, "-m", "benchmarks.gpu_proof", "--out", out, "--only", "decode", "devices"],
            capture_output=True, text=True, cwd=readme.ROOT, env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        (path,) = out.glob("gpu_none_*.json")
        steps = json.loads(path.read_text())["parts"]
        reasons = [step["skipped"] for part in steps.values() for step in part.values()]
        assert len(reasons) == 7
        assert all(re.search("torch finds no NVIDIA|is not installed", why) for why in reasons)


@pytest.mark.slow
def test_a_rehearsed_gpu_proof_goes_on_where_it_was(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks.gpu_proof", "--out", str(tmp_path), "--rehearse"]
    first = subprocess.run(
        [*words, "--only", "compile", "--minutes", "0"], capture_output=True, text=True
    )
    assert "time is up before compile: peaks; the same command continues" in first.stdout
    decode = subprocess.run([*words, "--only", "decode"], capture_output=True, text=True)
    assert decode.returncode == 0, decode.stdout
    (path,) = tmp_path.glob("gpu_rehearsal_*.json")
    steps = json.loads(path.read_text())["parts"]["decode"]
    assert steps["real"]["skipped"] == "no real videos were named with --clips"
    rows = {row["file"]: row for row in steps["frames"]["value"]}
    assert rows.keys() == FILES.keys()
    assert not any(row["wrong_frames"] for row in rows.values())
    assert rows["vp9"]["read_by"] == {"DALI's video decoder": 1}
    assert steps["tests"]["value"]["exit_code"] == 0
    again = subprocess.run([*words, "--only", "decode"], capture_output=True, text=True)
    assert "decode: real" in again.stdout
    assert "decode: frames" not in again.stdout


def test_the_gpu_proof_times_every_family() -> None:
    """It names them itself, because it starts where nothing of ours can be imported."""
    assert sorted(train_steps.FAMILIES) == sorted(FAMILIES)


def test_a_step_that_fails_is_an_error_and_one_that_lacks_a_package_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # restored at the end

    def divide(context: Context) -> float:
        return 1 / 0

    def need(context: Context) -> None:
        import no_such_package  # noqa: F401

    context = Context(rehearse=True)
    assert "ZeroDivisionError" in run(divide, context)["error"]
    assert run(need, context) == {"skipped": "no_such_package is not installed"}


def test_documents_say_what_was_proved_on_a_gpu(tmp_path: Path) -> None:
    assert "Nothing was run on a GPU yet" in gpu_limits(tmp_path)
    parts = {
        "decode": {
            "codecs": {"value": 1, "machine": {"machine": {"gpu": {"name": "NVIDIA H100"}}}},
            "real": {"skipped": "no videos"},
            "frames": {
                "value": [
                    {"read_by": {"DALI's video decoder": 1}, "wrong_frames": 3},
                    {"read_by": {"PyAV": 1}, "wrong_frames": 0},
                ]
            },
            "tests": {"value": {"exit_code": 1}},
        },
        "train": {"killed run": {"error": "…"}},
    }
    for card in ("nvidiah100", "none", "rehearsal"):
        text = json.dumps({"command": "python -m benchmarks.gpu_proof", "parts": parts})
        (tmp_path / f"gpu_{card}_202701.json").write_text(text)
    total = sum(map(len, PARTS.values()))
    assert gpu_limits(tmp_path).startswith(
        "- NVIDIA H100: NVDEC decoded 1 of 2 files, real and drawn, with 3 wrong frames; PyAV "
        "decoded the others. Done: decode: codecs, decode: frames.\n"
        "  Failed: decode: tests, train: killed run.\n"
        "  Could not run there: decode: real (no videos).\n"
        f"  Not run yet: {total - 5} of {total} checks.\n"
        "  Source: `python -m benchmarks.gpu_proof`, "
        "in `benchmarks/results/gpu_nvidiah100_202701.json`.\n"
        "  [docs/gpu.md]"
    )


@pytest.mark.slow
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
