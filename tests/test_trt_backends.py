"""Each backend says whether it can run here, why, and what to do about it."""

import os
import shutil
import signal
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from artifacts import SHAPE, Tiny

from trt import probe, program
from trt.backends import (
    BACKENDS,
    Gpu,
    build,
    choose,
    inductor_backend,
    inductor_package,
    inductor_process,
    probe_all,
)
from trt.build_input import BuildInput
from trt.config import PROGRAM, Target
from trt.errors import CompileError
from trt.program import Uint8Input
from trt.tf32 import with_tf32

ADA = Gpu(name="test", capability=(8, 9))
HOPPER = Gpu(name="test", capability=(9, 0))


def test_the_backends_are_the_documented_ones() -> None:
    assert list(BACKENDS) == ["tensorrt", "tensorrt-rtx", "inductor", "openvino", "onnx", "eager"]


def test_every_answer_has_a_reason_and_what_is_missing_a_command() -> None:
    for status in probe_all(None).values():
        assert status.why
        if not status.usable and "not installed" in status.why:
            assert status.fix.startswith("pip install -e '.[")
    assert probe_all(None)["eager"].usable
    assert probe_all(None)["tensorrt"].why == "no NVIDIA GPU"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What `trt.probe` finds; for a test to change."""
    packages = {"torch-tensorrt-rtx": "2.14.0", "tensorrt-rtx": "1.5", "onnx": "1.20"}

    def find(package: str) -> str:
        if package not in packages:
            raise probe.PackageNotFoundError(package)
        return packages[package]

    monkeypatch.setattr(probe, "version", find)
    return packages


def test_answers_follow_what_is_installed(installed: dict[str, str]) -> None:
    pytest.importorskip(
        "tensorrt_rtx", reason="needs TensorRT-RTX: pip install -e '.[tensorrt-rtx]'"
    )
    with_gpu, without = probe_all(ADA), probe_all(None)
    assert with_gpu["tensorrt"].usable
    assert "builds engines and runs them here" in with_gpu["tensorrt-rtx"].why
    assert "but can't run them here" in without["tensorrt-rtx"].why
    assert without["tensorrt-rtx"].usable
    assert without["onnx"].fix == probe.install_command("onnx")
    installed.clear()
    assert probe_all(HOPPER)["tensorrt"].fix == probe.install_command("tensorrt")


def test_tensorrt_rtx_is_not_chosen_where_it_has_no_kernels(installed: dict[str, str]) -> None:
    """The library lists the GPUs that it knows; Hopper and the first Blackwells are in a gap."""
    rtx = pytest.importorskip(
        "tensorrt_rtx", reason="needs TensorRT-RTX: pip install -e '.[tensorrt-rtx]'"
    )
    assert BACKENDS["tensorrt-rtx"].runs_on(ADA) == "cuda"
    for capability in ((7, 0), (7, 5), (9, 0), (10, 0), (13, 7)):
        gpu = Gpu(name="test", capability=capability)
        assert BACKENDS["tensorrt-rtx"].runs_on(gpu) == ""
        status = BACKENDS["tensorrt"].probe(gpu)
        assert not status.usable
        assert f"no kernels for compute capability {capability[0]}.{capability[1]}" in status.why
        assert "but can't run them here" in BACKENDS["tensorrt-rtx"].probe(gpu).why
    assert not hasattr(rtx.ComputeCapability, "SM90"), "it has kernels for Hopper now: say so"
    name, why = choose(HOPPER)
    assert name != "tensorrt"
    assert "tensorrt would be faster: tensorrt-rtx 1.5 has no kernels for" in why
    assert choose(ADA)[0] == "tensorrt"


def test_two_torch_tensorrts_in_one_place_are_refused(installed: dict[str, str]) -> None:
    installed["torch-tensorrt"] = "2.14.0"
    status = probe_all(ADA)["tensorrt"]
    assert not status.usable
    assert "torch-tensorrt-rtx 2.14.0 have overwritten each other's files" in status.why
    assert status.fix.startswith("pip uninstall torch-tensorrt torch-tensorrt-rtx")


@pytest.mark.slow
def test_a_compiler_that_fails_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inductor raises a RuntimeError then."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "/bin/false")
    clips = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    model = Uint8Input(Tiny(), mean=(0.5,) * 3, std=(0.5,) * 3).eval()
    (tmp_path / "artifact").mkdir()
    inputs = BuildInput(model=model, example=clips, target=Target())
    with pytest.raises(
        CompileError, match=r"inductor can't compile this model \(.+\): choose anoth"
    ):
        build("inductor", inputs, tmp_path / "artifact")


@pytest.mark.slow
def test_the_cuda_headers_of_pytorch_serve_inductor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no CUDA toolkit is installed."""
    from torch.utils import cpp_extension

    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    if shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler: apt-get install g++")
    home = inductor_package.cuda_home()
    if home is None:
        pytest.skip("needs CUDA headers: pip install -e '.[inductor]'")
    source = tmp_path / "source.cpp"
    source.write_text(
        "#define USE_CUDA 1\n#include <torch/csrc/inductor/aoti_runtime/model_container.h>\n"
        "#include <torch/csrc/inductor/aoti_include/cuda.h>\n"
    )
    with inductor_package._with_cuda_home():
        folders = cpp_extension.include_paths("cuda")
    command = ["g++", "-std=c++20", "-fsyntax-only", str(source)]
    command += [f"-I{folder}" for folder in [*folders, sysconfig.get_path("include")]]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr[:2000]
    assert cpp_extension.CUDA_HOME is None
    monkeypatch.setattr(inductor_package.importlib.util, "find_spec", lambda name: None)
    status = inductor_backend.probe(HOPPER)
    assert "no CUDA headers" in status.why
    assert "set CUDA_HOME" in status.fix
    assert inductor_backend.probe(None).usable  # on a CPU none are needed


def test_tf32_is_what_was_before_after_a_run() -> None:
    seen = []

    def run(clips: torch.Tensor) -> torch.Tensor:
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return clips

    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for allowed in (True, False):
        with_tf32(run, allowed)(torch.zeros(1))
        assert before == (
            torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32,
        )  # fmt: skip
    assert seen == [("high", True), ("highest", False)]


@pytest.mark.gpu
def test_fp32_is_fp32_and_tf32_is_less() -> None:
    a, b = torch.randn(2, 512, 512, device="cuda")
    exact = a.double() @ b.double()
    errors = [
        float((with_tf32(lambda x: x @ b, allowed)(a) - exact).abs().max())
        for allowed in (False, True)
    ]
    assert errors[0] < 1e-3 < errors[1]


def test_inductor_needs_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probe_all(None)["inductor"].fix == "apt-get install g++"


@pytest.mark.slow
def test_a_compiler_with_a_cpp_library_of_its_own_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    static = tmp_path / "g++"
    static.write_text(f'#!/bin/sh\nexec {shutil.which("g++")} "$@" -static-libstdc++\n')
    static.chmod(0o755)
    monkeypatch.setenv("CXX", str(static))
    assert inductor_package.cpp_compiler() != str(static)
    facts = inductor_process.Facts(shape=[2, *SHAPE], tf32=False)
    _write_program(tmp_path)
    inductor_process.run("compile", tmp_path, facts)
    inductor_process.run("try", tmp_path, facts)
    (tmp_path / inductor_package.PACKAGE).write_bytes(b"no package")
    with pytest.raises(RuntimeError, match="can't be opened"):
        inductor_process.run("try", tmp_path, facts)
    monkeypatch.setattr(inductor_package.shutil, "which", lambda name: str(static))
    with pytest.raises(CompileError, match=r"g\+\+ links the C\+\+ library statically.*set CXX"):
        inductor_package.cpp_compiler()


def test_a_crash_of_the_compiler_is_an_error(tmp_path: Path) -> None:
    _write_program(tmp_path)
    with ThreadPoolExecutor() as pool:
        facts = inductor_process.Facts(shape=[2, *SHAPE], tf32=False)
        compiling = pool.submit(inductor_process.run, "compile", tmp_path, facts)
        command = ["pgrep", "-P", str(os.getpid()), "-f", "inductor_process compile"]
        while not (found := subprocess.run(command, capture_output=True, text=True).stdout):
            assert not compiling.done()
        os.kill(int(found), signal.SIGSEGV)
        with pytest.raises(RuntimeError, match="ended with SIGSEGV while compiling"):
            compiling.result()


def _write_program(folder: Path) -> None:
    model = Uint8Input(Tiny(), mean=(0.5,) * 3, std=(0.5,) * 3).eval()
    clips = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    program.save(program.export(model, clips, Target().batches), folder / PROGRAM)


@pytest.mark.slow
def test_what_does_not_compile_is_tried_with_fewer_optimizations(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The way of a GPU, here on a CPU."""
    _write_program(tmp_path)
    facts = inductor_process.Facts(shape=[2, *SHAPE], tf32=False)
    steps: list[str] = []
    example = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    inputs = BuildInput(model=None, example=example, target=Target(), on_step=steps.append)
    made = inductor_backend._build_what_runs(inputs, tmp_path, facts)
    assert made == {"freezing": True, "cuda_graphs": True}
    assert steps == ["compiling", "running it"]
    monkeypatch.setenv("CXX", "/bin/false")
    with pytest.raises(RuntimeError, match="No working C"):
        inductor_backend._build_what_runs(inputs, tmp_path, facts)
    assert "compiling without freezing" in steps
