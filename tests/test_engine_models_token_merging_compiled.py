"""Models that merge tokens, compiled: OpenVINO's logits, and one engine in TensorRT."""

from pathlib import Path

import pytest
import torch
from artifacts import compiled
from merging_models import CLIP, FAMILIES, for_uint8, merged_of, model_of, uint8_clips

import trt
from trt import partition_report
from trt.backends import torch_tensorrt_backend
from trt.config import BatchRange, Precision, Target
from trt.probe import installed
from trt.program import export, lowered

TOLERANCES: dict[Precision, float] = {"fp32": 2e-3, "bf16": 3e-2, "int8": 0.2}
"""Largest error of a logit, relative to the largest logit; vit-lstm has 0.155 without merging."""


@pytest.mark.slow
@pytest.mark.skipif(not installed("openvino"), reason="no OpenVINO here")
@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("kind", FAMILIES)
def test_openvino_gives_the_logits(kind: str, precision: Precision, tmp_path: Path) -> None:
    model = for_uint8(merged_of(model_of(kind), 0.6))
    clips = uint8_clips(4)
    target = Target(precision=precision, merged_tokens=0.6)
    folder = compiled(tmp_path / "made", model, clips, "openvino", target, CLIP.to_dict())
    run = trt.load(folder)
    assert run.config.target == target
    with torch.no_grad():
        expected = model(clips)
    found = torch.cat([run(clips[:1]), run(clips[1:])])
    assert (found - expected).abs().max() < TOLERANCES[precision] * expected.abs().max()


@pytest.mark.slow
@pytest.mark.skipif(not installed("nncf"), reason="no NNCF here")
def test_merging_is_not_quantized(tmp_path: Path) -> None:
    import openvino

    model, clips = for_uint8(merged_of(model_of("timesformer"), 0.6)), uint8_clips(4)
    folder = compiled(tmp_path / "made", model, clips, "openvino", Target(precision="int8"))
    products = {True: 0, False: 0}
    for operator in openvino.Core().read_model(folder / "model.xml").get_ops():
        if operator.get_type_name() == "MatMul":
            kinds = {each.get_node().get_type_name() for each in operator.input_values()}
            is_merging = ".merge/" in operator.get_friendly_name()
            products[is_merging] += 1
            assert ("FakeQuantize" in kinds) != is_merging, operator.get_friendly_name()
    assert products[True] == 6  # similarities and averages of three layers
    assert products[False] > 20


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(installed, torch_tensorrt_backend.FLAVORS)), reason="no Torch-TensorRT here"
)
@pytest.mark.parametrize("kind", [*FAMILIES, "hf timesformer"])
def test_it_is_one_engine_with_fused_attention(kind: str) -> None:
    model = lowered(for_uint8(merged_of(model_of(kind), 0.6)), "bf16")
    report = partition_report.report(export(model, uint8_clips(1), BatchRange()))
    assert report["breaks"] == []
    assert (report["engines"], report["in_torch"]) == (1, 0)
    assert report["attention"] > 0
    # attention over time by transformers is written out
    assert bool(report["unfused_attention"]) == (kind == "hf timesformer")


@pytest.mark.skipif(
    not (installed("onnxruntime") and installed("nncf")), reason="no onnxruntime or NNCF here"
)
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_onnxruntime_gives_the_logits(precision: Precision, tmp_path: Path) -> None:
    model, clips = for_uint8(merged_of(model_of("timesformer"), 0.6)), uint8_clips(4)
    run = trt.load(compiled(tmp_path / "made", model, clips, "onnx", Target(precision=precision)))
    with torch.no_grad():
        expected = model(clips)
    assert (run(clips) - expected).abs().max() < TOLERANCES[precision] * expected.abs().max()


@pytest.mark.slow
@pytest.mark.skipif(
    not (installed("tensorrt-rtx") and installed("onnxscript")), reason="no TensorRT-RTX here"
)
@pytest.mark.rtx
def test_tensorrt_rtx_builds_an_engine(tmp_path: Path) -> None:
    model, clips = for_uint8(merged_of(model_of("timesformer"), 0.6)), uint8_clips(4)
    folder = compiled(tmp_path / "made", model, clips, "tensorrt-rtx", Target(precision="int8"))
    partition = trt.artifact.check(folder).partition
    assert (partition["engines"], partition["in_torch"]) == (1, 0)
