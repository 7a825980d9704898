"""ONNX backend: exports a portable .onnx file for other runtimes; runs it with onnxruntime."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt.build_input import BuildInput
from trt.calibration import nncf_and_clips, not_quantized
from trt.config import ArtifactConfig, Bond, Precision, nearest
from trt.errors import CompileError
from trt.probe import Gpu, Status, installed, missing

if TYPE_CHECKING:
    import onnx

    from trt.build_input import Run

WHERE = "anywhere, for other runtimes"
LOWERS: frozenset[Precision] = frozenset({"fp32", "tf32", "int8"})
PACKAGES: tuple[str, ...] = ("torch", "onnx", "onnxruntime")
BOUND_TO: frozenset[Bond] = frozenset()
MODEL = "model.onnx"
OPSET = 20
INPUT, OUTPUT = "clips", "logits"
SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata key in which the exporter lists the modules of a node, outermost first."""


def probe(gpu: Gpu | None) -> Status:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if not installed(package):
            return missing(package, "onnx")
    return Status(usable=True, why=installed("onnx"))


def resolve_precision(precision: Precision, gpu: Gpu | None) -> tuple[Precision, str]:
    return nearest(precision, {"fp32", "fp16", "int8"}, "onnxruntime")


def runs_on(gpu: Gpu | None) -> str:
    return "cpu"


def build(inputs: BuildInput, folder: Path) -> dict[str, Any]:
    write_model(inputs, folder / MODEL)
    if inputs.target.precision == "int8":
        quantize(folder / MODEL, inputs)
    import onnx

    nodes = onnx.load(folder / MODEL, load_external_data=False).graph.node
    return {"engines": 1, "in_engine": len(nodes), "in_torch": 0}


def write_model(inputs: BuildInput, path: Path) -> None:
    """Export the model to ONNX; weights above 1 GiB are saved in a separate file."""
    import torch

    assert inputs.model is not None
    inputs.on_step("exporting to ONNX")
    max_batch = inputs.target.batches.max
    example = inputs.example.expand(min(2, max_batch), *inputs.example.shape[1:]).contiguous()
    dims = {0: torch.export.Dim("batch", min=1, max=max_batch)} if max_batch > 1 else {}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    silence = contextlib.redirect_stdout(io.StringIO())
    with silence, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            inputs.model,
            (example,),
            path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(dims,),
            external_data=sum(weight.nbytes for weight in inputs.model.parameters()) > 1 << 30,
            verbose=False,
        )


def quantize(
    path: Path, inputs: BuildInput, *, symmetric: bool = False, not_types: Sequence[str] = ()
) -> None:
    """Quantize an ONNX file to int8, in place.

    Args:
        path: The ONNX file.
        inputs: Calibration clips, and the layers that stay in fp32.
        symmetric: Whether all zero points are 0.
        not_types: Types of operators that stay in fp32.
    """
    import onnx

    nncf, clips = nncf_and_clips(inputs)
    model = onnx.load(path)
    in_float = not_quantized(inputs)
    fp32_layers = [node.name for node in model.graph.node if _is_inside(node, in_float)]
    presets = nncf.QuantizationPreset
    quantized = nncf.quantize(
        model,
        nncf.Dataset(clips, lambda clip: {INPUT: clip.numpy()}),
        subset_size=len(clips),
        preset=presets.PERFORMANCE if symmetric else None,
        ignored_scope=nncf.IgnoredScope(types=list(not_types), names=fp32_layers, validate=False),
    )
    onnx.save(quantized, path)


def _is_inside(node: "onnx.NodeProto", modules: Collection[str]) -> bool:
    scopes = next((item.value for item in node.metadata_props if item.key == SCOPES), "")
    return any(re.search(rf"'model\.{re.escape(module)}[.']", scopes) for module in modules)


def load(folder: Path, config: ArtifactConfig) -> "Run":
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            folder / MODEL, options, providers=onnxruntime.get_available_providers()
        )
    except Exception as error:  # onnxruntime's errors have no common base class
        reason = str(error).splitlines()[0]
        raise CompileError(f"onnxruntime can't open {folder / MODEL} ({reason}).") from error

    def run(clips: torch.Tensor) -> torch.Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: clips.cpu().numpy()})
        return torch.from_numpy(logits)

    return run
