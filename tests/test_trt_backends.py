"""Each backend says whether it can run here, why, and what to do about it."""

import pytest

from trt import probe
from trt.backends import BACKENDS, Gpu, probe_all

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


def test_answers_follow_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch-tensorrt-rtx": "2.14.0", "tensorrt-rtx": "1.5", "onnx": "1.20"}

    def find(package: str) -> str:
        if package not in installed:
            raise probe.PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(probe, "version", find)
    with_gpu, without = probe_all(HOPPER), probe_all(None)
    assert with_gpu["tensorrt"].usable
    assert "builds engines and runs them here" in with_gpu["tensorrt-rtx"].why
    assert "but can't run them here" in without["tensorrt-rtx"].why
    assert without["tensorrt-rtx"].usable
    assert without["onnx"].fix == probe.install_command("onnx")
    installed.clear()
    assert probe_all(HOPPER)["tensorrt"].fix == probe.install_command("tensorrt")


def test_inductor_needs_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probe_all(None)["inductor"].fix == "apt-get install g++"
