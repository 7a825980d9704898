"""`engine compile` end to end: a real run, real compilers, a gate that refuses."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import engine
from engine.compilation import build
from engine.compilation.compile_source import CompileSource
from engine.compilation.request import CompileRequest
from engine.errors import RefusedError, UserError
from engine.predictor import open_predictor
from trt import probe
from trt.backends import BACKENDS
from trt.config import Target
from trt.parity import Budget


@pytest.fixture(scope="module")
def trained(grouped_set, run_engine, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    result = run_engine(
        "train", "--data", grouped_set, "--model", "cnn-lstm", "--preset", "small", "--epochs", 4,
        "--out", run,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return run


@pytest.fixture
def compile_(run_engine, tmp_path):
    def compile_(*arguments: object):
        return run_engine("compile", *arguments, "--cache", tmp_path / "cache")

    return compile_


def asked(
    run: Path, *, precision="fp32", backend="openvino", budget: Budget | None = None
) -> CompileRequest:
    return CompileRequest(
        run=run, data=None, backend=backend, precision=precision,
        target=Target(precision=precision), budget=budget or Budget(), unproved=False,
        num_proof_clips=256, num_calibration_clips=16,
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_becomes_an_artifact_that_evaluates_the_same(
    trained, compile_, run_engine, tmp_path
) -> None:
    made = compile_(trained, "--out", tmp_path / "fast")
    assert made.returncode == 0, made.stderr
    assert "backend openvino" in made.stdout
    assert "100.00% of" in made.stdout
    assert "held out under grouped" in made.stdout
    config = json.loads((tmp_path / "fast" / "config.json").read_text())
    assert config["parity"]["passed"]
    assert config["parity"]["proved"]
    assert len(config["parity"]["accuracy_interval"]) == 2
    assert config["build"]["peak_memory_mib"] > 0
    result = run_engine("evaluate", trained, tmp_path / "fast", "--out", tmp_path / "report")
    assert result.returncode == 0, result.stderr
    one, other = json.loads((tmp_path / "report" / "report.json").read_text())
    assert one["video"]["confusion"] == other["video"]["confusion"]
    assert other["protocol"]["device"] == "cpu, openvino, fp32"
    assert other["protocol"]["split"] == "test"


@pytest.mark.slow
def test_an_artifact_without_an_engine_says_so(trained, compile_, tmp_path) -> None:
    made = compile_(trained, "--out", tmp_path / "fast", "--backend", "eager")
    assert made.returncode == 0, made.stderr
    assert re.search(r"eager in fp32: 0 operators in 0 engine\(s\), \d+ in torch", made.stdout)


@pytest.mark.slow
def test_the_same_question_is_built_once(trained, compile_, tmp_path) -> None:
    first = compile_(trained, "--out", tmp_path / "one")
    again = compile_(trained, "--out", tmp_path / "two")
    assert "cached build" not in first.stdout
    assert "cached build" in again.stdout
    other = compile_(trained, "--out", tmp_path / "three", "--batches", "1,4,16")
    assert "cached build" not in other.stdout
    fp32_layers = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert len(fp32_layers) == 2
    for path in fp32_layers:
        (path / "model.bin").unlink()
        (path / "model.bin").touch()  # a copy of its own: the artifacts are not touched
    mended = compile_(trained, "--out", tmp_path / "four")
    assert "cached build" not in mended.stdout
    assert open_predictor(tmp_path / "one").class_names


@pytest.mark.slow
def test_a_full_disk_is_named_be_it_the_artifacts_or_the_caches(
    trained, on_small_disk, tmp_path
) -> None:
    command = [sys.executable, "-m", "engine", "compile", trained, "--backend", "eager"]
    out, cache = tmp_path / "out", tmp_path / "cache"
    out.mkdir()
    cache.mkdir()
    for full, code, said in (
        (cache, 3, f"engine: {cache} has 0 MiB left"),
        (out, 2, f"engine: {out / 'fast'}: No space left on device"),
    ):
        words = [*on_small_disk(full, "64k"), *command, "--out", out / "fast", "--cache", cache]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert done.stderr.startswith(said)
        assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_two_at_a_time_build_once(trained, tmp_path) -> None:
    command = [
        sys.executable, "-m", "engine", "compile", str(trained), "--cache", str(tmp_path / "cache"),
    ]  # fmt: skip
    processes = [
        subprocess.Popen([*command, "--out", str(tmp_path / name)], stdout=subprocess.PIPE)
        for name in ("one", "two")
    ]
    texts = [process.communicate(timeout=900)[0].decode() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert sum("cached build" in text for text in texts) == 1


@pytest.mark.slow
def test_a_damaged_layer_is_never_written(trained, tmp_path) -> None:
    source = CompileSource(asked(trained))
    damaged = source.folded
    with torch.no_grad():
        damaged.model.head.weight.mul_(-1)
    stage = tmp_path / "stage"
    stage.mkdir()
    with pytest.raises(RefusedError, match="no artifact is written"):
        build.build(asked(trained), source, stage, None, lambda words: None)


def test_layers_that_overflow_are_named_and_kept(trained, tmp_path) -> None:
    """Two layers of a run are changed so that what passes between them leaves the range of fp16."""
    if BACKENDS["openvino"].resolve_precision("fp16", None)[0] != "fp16":
        pytest.skip("this processor doesn't compute in fp16")
    question = asked(trained, precision="fp16")
    source = CompileSource(question)
    embed, head = torch.nn.Linear(256, 256), source.model.model.head
    with torch.no_grad():
        embed.weight.copy_(torch.eye(256) * 1e7)
        embed.bias.zero_()
        head.weight.div_(1e7)
    source.model.model.dropout = embed.eval()
    stage = tmp_path / "stage"
    stage.mkdir()
    said: list[str] = []
    config = build.build(question, source, stage, None, said.append)
    assert config.parity["passed"]
    assert "dropout" in config.target.fp32_layers
    assert any("most sensitive layers in fp16" in words and "dropout" in words for words in said)


@pytest.mark.slow
def test_a_wider_budget_is_asked_for_and_recorded(trained, compile_, tmp_path) -> None:
    made = compile_(
        trained, "--precision", "int8", "--accept-drift", 60, "--out", tmp_path / "fast"
    )
    assert made.returncode == 0, made.stderr
    budget = json.loads((tmp_path / "fast" / "config.json").read_text())["parity"]["budget"]
    assert budget == {"agreement": pytest.approx(0.4), "drop": 0.6, "accepted": True}


@pytest.mark.slow
def test_an_engine_for_another_machine_is_rebuilt_from_itself(
    trained, compile_, run_engine, tmp_path
) -> None:
    made = compile_(trained, "--backend", "inductor", "--out", tmp_path / "old")
    assert made.returncode == 0, made.stderr
    path = tmp_path / "old" / "config.json"
    config = json.loads(path.read_text())
    path.unlink()  # the cache has the same file
    path.write_text(json.dumps({**config, "device": "another processor"}))
    refused = run_engine("evaluate", tmp_path / "old")
    assert refused.returncode == 3
    assert "--rebuild" in refused.stderr
    rebuilt = compile_(tmp_path / "old", "--rebuild", "--out", tmp_path / "new")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert run_engine("evaluate", tmp_path / "new").returncode == 0


@pytest.mark.slow
def test_a_backend_that_fails_makes_way_for_the_next(trained, monkeypatch, tmp_path) -> None:
    status = probe.Status(usable=False, why="it is missing", fix="")
    monkeypatch.setattr(BACKENDS["openvino"], "probe", lambda gpu: status)
    monkeypatch.setenv("CXX", "/bin/false")  # the compiler that inductor calls
    lines: list[str] = []
    settings = {"cache": tmp_path / "cache", "log": lines.append}
    with pytest.raises(UserError, match="inductor can't compile"):
        engine.compile(trained, tmp_path / "asked", backend="inductor", **settings)
    assert not (tmp_path / "asked").exists()
    config = engine.compile(trained, tmp_path / "auto", **settings)
    assert config.backend == "eager"
    assert any("inductor failed" in line for line in lines)
    assert engine.load(tmp_path / "auto")


@pytest.mark.slow
def test_what_a_device_lacks_is_said_and_recorded(trained, compile_, tmp_path) -> None:
    made = compile_(trained, "--precision", "tf32", "--out", tmp_path / "fast")
    assert made.returncode == 0, made.stderr
    assert "this CPU doesn't compute in tf32: using fp32 instead" in made.stdout
    config = json.loads((tmp_path / "fast" / "config.json").read_text())
    assert (config["asked"], config["target"]["precision"]) == ("tf32", "fp32")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--backend", "openvnio"], 2, "did you mean 'openvino'?"),
        (["--precision", "int4"], 2, "unknown precision"),
        (["--batches", "8"], 2, "three numbers as in 1,8,32"),
        (["--batches", "8,1,32"], 2, "must be ascending"),
        (["--backend", "tensorrt"], 3, "no NVIDIA GPU"),
    ],
)
def test_mistakes_are_told_in_a_sentence(trained, run_engine, tmp_path, arguments, code, words):
    if torch.cuda.is_available() and "tensorrt" in arguments:
        pytest.skip("here is a GPU")
    result = run_engine("compile", trained, *arguments, "--out", tmp_path / "fast")
    assert result.returncode == code
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "fast").exists()


def test_what_is_missing_names_the_command(monkeypatch, run_engine, tmp_path) -> None:
    def nowhere(package: str) -> str:
        raise probe.PackageNotFoundError(package)

    monkeypatch.setattr(probe, "version", nowhere)
    for name, extra in (("openvino", "openvino"), ("onnx", "onnx")):
        assert BACKENDS[name].probe(None).fix == probe.install_command(extra)


@pytest.mark.slow
def test_an_interrupted_build_leaves_nothing(trained, tmp_path) -> None:
    import signal
    import time

    command = [
        sys.executable, "-m", "engine", "compile", str(trained), "--backend", "inductor",
        "--out", str(tmp_path / "fast"), "--cache", str(tmp_path / "cache"),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout is not None
    while "compiling" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=900)
    assert process.returncode == 130
    assert not (tmp_path / "fast").exists()
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []
    shutil.rmtree(tmp_path / "cache")


@pytest.mark.slow
def test_8_bits_that_are_slower_than_bf16_are_refused() -> None:
    from engine.compilation.speed import require_faster_than_bf16

    clips = torch.zeros(2, 8)
    small, large = torch.nn.Linear(8, 8), torch.nn.Sequential(*[torch.nn.Linear(8, 8)] * 200)
    rates = require_faster_than_bf16("int8", small, large, clips)
    assert rates["int8"] > rates["bf16, not compiled"]
    with pytest.raises(RefusedError, match=r"in int8 this GPU runs .* in bf16 without a compiler"):
        require_faster_than_bf16("int8", large, small, clips)
