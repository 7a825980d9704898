"""From files to labels, side by side: real processes, real videos; no test judges how fast."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import videos
from rows import rows_of

from benchmarks import baselines, report
from benchmarks.baselines.frame_readers import READERS, lacks
from benchmarks.budget import on_front, pick
from benchmarks.comparison import compare
from benchmarks.harness import interleaved, summary
from benchmarks.pipeline import PipelineSpec, Setting
from benchmarks.stages.end_to_end import drop_from_cache
from benchmarks.worker import PipelineError, Worker, memory_mib
from dali_pipelines.errors import VideoError
from dali_pipelines.spec import ClipSpec
from engine.models import registry
from engine.training import checkpoint

KNOWN_S = 0.05


def test_a_stage_is_never_faster_than_it_is() -> None:
    def stage() -> int:
        time.sleep(KNOWN_S)
        return 1

    row = summary("known", interleaved({"known": stage}, repeats=9)["known"])
    assert 0 < row["clips_per_s"] <= 1 / KNOWN_S


def row(name: str, rate: float, top1: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "clips_per_s": rate, "top1": top1, "spread": 0.1, **more}


TABLE = [
    row("exact", 4.0, 0.90),
    row("bf16", 17.0, 0.90),
    row("int8", 20.0, 0.896),
    row("tiny", 90.0, 0.70),
    row("slow and wrong", 3.0, 0.60),
    row("int8 again", 20.0, 0.896),
]


def test_the_pareto_front_of_a_fixed_table() -> None:
    assert on_front(TABLE) == [False, True, True, True, False, True]


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        ({"target_clips_per_s": 10}, "bf16"),
        ({"target_clips_per_s": 18}, "int8"),
        ({"max_drop": 0.0}, "bf16"),
        ({"max_drop": 0.4}, "int8"),
        ({"max_drop": 50}, "tiny"),
        ({"max_drop": 0.4, "target_clips_per_s": 18}, "int8"),
    ],
)
def test_a_budget_picks_from_a_fixed_table(budget: dict[str, float], name: str) -> None:
    found = pick(TABLE, **budget)
    assert found is not None
    assert found["name"] == name


def test_a_budget_that_nothing_keeps() -> None:
    assert pick(TABLE, target_clips_per_s=91) is None
    assert pick(TABLE, max_drop=0.4, target_clips_per_s=30) is None
    assert pick([], max_drop=1) is None


def test_a_comparison_flags_what_lies_beyond_noise() -> None:
    def result(*rows: dict[str, Any]) -> dict[str, Any]:
        return {"rows": [*rows, {"name": "failed", "error": "no"}]}

    before = result(*(row(name, 100, 0.9) for name in ("same", "slower", "faster", "worse")),
                    row("gone", 1, 1))  # fmt: skip
    after = result(
        row("same", 92, 0.9), row("slower", 88, 0.9), row("faster", 120, 0.9),
        row("worse", 100, 0.89), row("new", 1, 1),
    )  # fmt: skip
    changes, alone = compare(before, after)
    assert {each.name: each.verdict for each in changes} == {
        "same": "within noise", "slower": "slower", "faster": "faster", "worse": "less accurate",
    }  # fmt: skip
    assert [each.name for each in changes if each.is_regression] == ["slower", "worse"]
    assert alone == ["gone", "new"]


def test_memory_counts_children() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    child = "x = bytearray(200 << 20); print('ready', flush=True); input()"
    with subprocess.Popen(
        ["python3", "-c", code, child], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 200 < memory_mib(process.pid) < 300
        process.communicate(b"\n")
    assert memory_mib(process.pid) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TimeSformer of published shape, though small, with random weights."""
    return random_run(tmp_path_factory, {"dim": 32, "depth": 2, "heads": 4})


@pytest.fixture(scope="module")
def run_with_our_stem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_run(
        tmp_path_factory, {"dim": 32, "depth": 2, "heads": 4, "convolutional_stem": True}
    )


def random_run(tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any]) -> Path:
    spec, clip = registry.ModelSpec.of_preset("timesformer", "base", 3, **options)
    clip = ClipSpec(num_frames=4, resize=64, crop=64, mean=clip.mean, std=clip.std)
    torch.manual_seed(0)
    model = registry.build(spec, clip)
    for weight in model.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    folder = tmp_path_factory.mktemp("run") / "run"
    folder.mkdir()
    config = checkpoint.CheckpointConfig(
        model=spec, clip=clip, class_names=["a", "b", "c"], step=0, metrics={}, versions={}
    )
    saved = checkpoint.save(folder, config, model.state_dict(), {})
    checkpoint.mark_best(folder, saved, "nothing", 0.0)
    return folder


def rows(folder: Path, count: int = 5) -> list[Any]:
    paths = [
        videos.write_video(folder / f"{number}", size=(96, 64), frames=12)
        for number in range(count)
    ]
    return rows_of(paths)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "run_with_our_stem"])
def test_the_hugging_face_pipeline_answers_as_we_do(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from benchmarks.baselines.hugging_face import HuggingFace
    from benchmarks.pipelines import open_pipeline

    run = request.getfixturevalue(kind)
    theirs = HuggingFace(run)
    ours = open_pipeline(PipelineSpec(name="run", kind="ours", path=run))
    model, _ = checkpoint.load_model(checkpoint.named_or_best(run))  # type: ignore[arg-type]
    clips = torch.randn(2, 4, 3, 64, 64)
    with torch.no_grad():
        logits = theirs._pipeline.model(pixel_values=clips).logits
        torch.testing.assert_close(logits, model.eval()(clips), atol=1e-4, rtol=1e-4)
    for each in rows(tmp_path, 2):
        found = theirs.one(each)
        assert found.sum() == pytest.approx(1, abs=1e-4)
        # its own frames are the ones before ours and its resize is another one
        assert np.abs(found - next(ours.label([each], Setting(batch=1))).probabilities).max() < 0.2


@pytest.mark.parametrize("with_torchcodec", [True, False])
def test_a_clip_that_hugging_face_cannot_read_costs_that_clip(
    with_torchcodec: bool, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import import_utils

    from benchmarks.baselines.hugging_face import HuggingFace

    if not with_torchcodec:
        monkeypatch.setattr(import_utils, "is_torchcodec_usable", lambda decode: False)
    elif reason := lacks(READERS["torchcodec"]):
        pytest.skip(reason)
    (good,) = rows(tmp_path, 1)
    odd = dataclasses.replace(good, id=1, path=videos.with_latin1_title(good.path))
    broken = dataclasses.replace(good, id=2, path=tmp_path / "broken.avi")
    broken.path.write_bytes(good.path.read_bytes()[:500])
    theirs = HuggingFace(run)
    with pytest.raises(VideoError, match="broken"):
        theirs.one(broken)
    # by PyAV, transformers opens no file whose metadata isn't UTF-8
    expected = {0, 1} if with_torchcodec else {0}
    found = {each.id for each in theirs.label([broken, odd, good], Setting(batch=1))}
    assert found == expected


@pytest.mark.parametrize("kind", ["torch", "torch-compile", "onnxruntime", "torchcodec", "decord"])
@pytest.mark.slow
def test_plain_peers_answer_as_we_do(kind: str, run: Path, tmp_path: Path) -> None:
    if reason := baselines.lacks(kind):
        pytest.skip(reason)
    from benchmarks.pipelines import open_pipeline

    clips = rows(tmp_path)
    ours = open_pipeline(PipelineSpec(name="run", kind="ours", path=run))
    expected = {each.id: each.probabilities for each in ours.label(clips, Setting(batch=2))}
    with Worker(PipelineSpec(name=kind, kind=kind, path=run)) as worker:
        opened = worker.ask("open", clips[0])
        assert opened["first_label_s"] > opened["open_s"] > 0
        advanced: list[int] = []
        answer = worker.ask("label", clips, Setting(batch=2), on_clip=lambda: advanced.append(1))
        assert len(worker.ask("latency", clips, 900.0)["ms"]) == len(advanced) == len(clips)
    assert answer["probabilities"].keys() == expected.keys()
    # decord on a busy machine now and then gives an earlier frame for the last one: 6 of 400 reads
    atol = 0.02 if kind != "decord" else 0.2
    for number, found in answer["probabilities"].items():
        np.testing.assert_allclose(found, expected[number], atol=atol)


@pytest.mark.slow
def test_what_a_peers_libraries_print_is_not_shown(run: Path, tmp_path: Path) -> None:
    """FFmpeg, in OpenCV and decord, has something to say of each odd file."""
    clips = rows(tmp_path, 1)
    for kind, is_shown in (("torch", False), ("ours", True)):
        with Worker(PipelineSpec(name=kind, kind=kind, path=run)) as worker:
            worker.ask("open", clips[0])
            target = str(Path(f"/proc/{worker._process.pid}/fd/2").readlink())
            assert (target != os.devnull) == is_shown


def test_each_stage_is_timed_by_itself(run: Path, tmp_path: Path) -> None:
    from benchmarks.our_pipeline import Ours

    clips = rows(tmp_path)
    setting = Setting(batch=2, num_clips=2)
    stages = Ours(run).stages(clips, setting)
    assert list(stages) == ["read", "decode", "preprocess", "model", "post"]
    assert {name: stage() for name, stage in stages.items()} == dict.fromkeys(stages, len(clips))
    drop_from_cache(clips)
    assert stages["read"]() == len(clips)


def test_a_worker_that_is_killed_or_refuses_is_an_error_in_words(run: Path, tmp_path: Path) -> None:
    (clip,) = rows(tmp_path, 1)
    with Worker(PipelineSpec(name="x", kind="ours", path=tmp_path / "nothing")) as worker:
        with pytest.raises(PipelineError, match="holds no checkpoint"):
            worker.ask("open", clip)
        os.kill(worker._process.pid or 0, signal.SIGKILL)
        with pytest.raises(PipelineError, match="process died"):
            worker.ask("open", clip)


@pytest.mark.slow
def test_a_peer_that_cannot_read_one_clip_reads_the_others(run: Path, tmp_path: Path) -> None:
    good = rows(tmp_path, 2)
    broken = tmp_path / "broken.avi"
    broken.write_bytes(good[0].path.read_bytes()[:500])
    clips = [dataclasses.replace(good[0], id=9, path=broken), *good]
    with Worker(PipelineSpec(name="torch", kind="torch", path=run)) as worker:
        worker.ask("open", clips[0])
        answer = worker.ask("label", clips, Setting(batch=2))
        assert answer["probabilities"].keys() == {each.id for each in good}
        assert len(worker.ask("latency", clips, 900.0)["ms"]) == len(good)


@pytest.mark.slow
def test_the_plain_peer_reads_clips_whose_metadata_is_not_utf8(run: Path, tmp_path: Path) -> None:
    (good,) = rows(tmp_path, 1)
    odd = dataclasses.replace(good, path=videos.with_latin1_title(good.path))
    with Worker(PipelineSpec(name="torch", kind="torch", path=run)) as worker:
        worker.ask("open", odd)
        assert set(worker.ask("label", [odd], Setting(batch=1))["probabilities"]) == {odd.id}


@pytest.fixture(scope="module")
def benched(tmp_path_factory: pytest.TempPathFactory, run_engine: Any) -> Any:
    """A run, an artifact of it, and the bench of both beside plain PyTorch."""
    folder = tmp_path_factory.mktemp("bench")
    root = folder / "set"
    assert run_engine(
        "data", "synth", root, "--classes", 3, "--clips-per-class", 10
    ).returncode == 0  # fmt: skip
    assert run_engine("data", "split", root, "--scheme", "grouped").returncode == 0
    trained = run_engine(
        "train", "--data", root, "--model", "vit-lstm", "--preset", "small", "--epochs", 1,
        "--out", folder / "run",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    compiled = run_engine(
        "compile", folder / "run", "--out", folder / "fast", "--cache", folder / "cache"
    )
    assert compiled.returncode == 0, compiled.stderr
    result = run_engine(
        "bench", folder / "run", folder / "fast", "--against", "torch,hf", "--repeats", 2,
        "--seconds", 0.5, "--batches", "2", "--out", folder / "out", "--max-drop", 100,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder, result


@pytest.mark.slow
def test_bench_measures_speed_accuracy_and_stages(benched: Any) -> None:
    folder, result = benched
    (path,) = (folder / "out").glob("*.json")
    found = json.loads(path.read_text())
    by_name = {row["name"]: row for row in found["rows"]}
    assert list(by_name) == ["run", "fast", "torch", "hf"]
    assert "transformers has no such model" in by_name["hf"]["error"]
    assert "transformers has no such model" in result.stdout
    for name in ("run", "fast", "torch"):
        row = by_name[name]
        assert len(row["repeats"]) == 2
        assert row["agreement"] == 1
        assert row["top1"] == by_name["run"]["top1"]
        assert row["num_labelled"] == found["num_clips"]
        assert row["latency_ms"]["p50"] <= row["latency_ms"]["p99"]
        assert row["peak_mib"] > 100
        assert row["first_label_s"] > 0
    for name in ("run", "fast"):
        row = by_name[name]
        assert row["bottleneck"] == min(row["stages"], key=row["stages"].get)
        assert row["efficiency"] > 0
        assert row["cold_clips_per_s"] > 0
    assert by_name["fast"]["build_s"] > 0
    assert found["matrix_peak_gflops"]["fp32"] > 0
    assert found["copy_peak_gb_s"]["host"] > 0
    assert "engine label FOLDER --model" in result.stdout
    assert len(list((folder / "out").iterdir())) == 5


@pytest.mark.slow
def test_bench_compares_results_and_refuses_what_is_none(benched: Any, run_engine: Any) -> None:
    folder, _ = benched
    (path,) = (folder / "out").glob("*.json")
    same = run_engine("bench", "compare", path, path)
    assert same.returncode == 0, same.stderr
    assert "nothing became worse" in same.stdout
    found = json.loads(path.read_text())
    for name, rate in (("before", 30), ("worse", 10)):
        found["rows"][0] |= {
            "clips_per_s": rate,
            "spread": 0.1,
        }  # as if measured on a quiet machine
        (folder / f"{name}.json").write_text(json.dumps(found))
    result = run_engine("bench", "compare", folder / "before.json", folder / "worse.json")
    assert result.returncode == 3
    assert "worse: run, batch 2, views 1x1" in result.stdout
    result = run_engine("bench", "compare", path, folder / "run" / "run.json")
    assert result.returncode == 2
    assert "is not a result of `engine bench`" in result.stderr


@pytest.mark.slow
def test_a_budget_that_is_out_of_reach_is_refused(benched: Any, run_engine: Any) -> None:
    folder, _ = benched
    result = run_engine(
        "bench", folder / "fast", "--repeats", 1, "--seconds", 0.1, "--batches", 2, "--clips", 2,
        "--out", folder / "again", "--target-clips-per-s", 1e6,
    )  # fmt: skip
    assert result.returncode == 3
    assert "no measured configuration fits that budget" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stage", "end-to-end"), "takes runs or artifacts"),
        (("{run}", "--against", "hff"), "did you mean 'hf'"),
        (("{fast}", "--against", "torch"), "name the run, too"),
        (("{run}", "--views", "2x2"), "--views takes CLIPSxCROPS"),
        (("compare", "one.json"), "compare takes two results"),
    ],
)
@pytest.mark.slow
def test_what_bench_says_to_wrong_words(
    benched: Any, run_engine: Any, arguments: tuple[str, ...], message: str
) -> None:
    folder, _ = benched
    words = [each.format(run=folder / "run", fast=folder / "fast") for each in arguments]
    result = run_engine("bench", *words, "--out", folder / "wrong")
    assert result.returncode == 2
    assert message in result.stderr


@pytest.mark.browser
@pytest.mark.slow
def test_the_page_shows_chart_and_table_in_a_browser(benched: Any, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser: apt-get install chromium")
    folder, _ = benched
    (page,) = (folder / "out").glob("*.html")
    base = [browser, "--headless", "--no-sandbox", "--disable-gpu"]
    picture = tmp_path / "page.png"
    shot = [*base, "--window-size=1200,1600", f"--screenshot={picture}", page.as_uri()]
    subprocess.run(shot, check=True, capture_output=True, timeout=900)
    from PIL import Image

    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    for color in ((0x0B, 0x6E, 0x4F), (0x44, 0x77, 0xAA)):  # a point of ours, a stage's bar
        assert (pixels == color).all(axis=1).any()
    dump = subprocess.run(
        [*base, "--dump-dom", page.as_uri()], check=True, capture_output=True, text=True,
        timeout=900,
    ).stdout  # fmt: skip
    assert dump.count('<img src="data:image/png') == 2
    assert dump.count("<tr>") == 5
    assert "http://" not in dump
    assert "https://" not in dump


def test_points_are_drawn_and_written(tmp_path: Path) -> None:
    many = [
        row(f"way {n}", 3.0 * n + 1, 0.5 + n / 20, kind="ours" if n % 2 else "torch",
            top1_interval=[0.4, 0.99], repeats=[3.0 * n, 3.0 * n + 2], on_front=n > 2, batch=8,
            views="1x1")
        for n in range(6)
    ]  # fmt: skip
    assert report.draw_front(tmp_path / "front.png", many).stat().st_size > 10_000
    assert report.draw_stages(tmp_path / "stages.png", many) == []


def test_a_peers_loader_says_what_makes_it_slow_here(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.pipelines import open_pipeline

    monkeypatch.setattr("dali_pipelines.loaders.torch_loader._free_shared_memory", lambda: 0)
    way = open_pipeline(PipelineSpec(name="torch", kind="torch", path=run))
    assert way.note == ""
    rows = rows_of([videos.write_video(tmp_path / "clip")])
    assert len(list(way.label(rows, Setting(batch=1)))) == 1
    assert "go through pipes, which is slower" in way.note
