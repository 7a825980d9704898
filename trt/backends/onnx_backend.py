"""A portable .onnx for other runtimes; onnxruntime runs it here, and proves it."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt.build_input import BuildInput
from trt.calibration import nncf_and_clips
from trt.config import ArtifactConfig, Bond, Precision, nearest
from trt.errors import CompileError
from trt.probe import Gpu, Status, installed, missing

if TYPE_CHECKING:
    import onnx

    from trt.build_input import Run

WHERE = "anywhere, to run elsewhere"
LOWERS: frozenset[Precision] = frozenset({"fp32", "tf32", "int8"})
PACKAGES: tuple[str, ...] = ("torch", "onnx", "onnxruntime")
BOUND_TO: frozenset[Bond] = frozenset()
MODEL = "model.onnx"
OPSET = 20
INPUT, OUTPUT = "clips", "logits"
SCOPES = "pkg.torch.onnx.name_scopes"
"""Where the exporter writes the modules that a node came from, outermost first."""


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
    """By the exporter that goes over torch.export; weights of two gigabytes lie beside the file."""
    import torch

    assert inputs.model is not None
    inputs.on_step("exporting to ONNX")
    most = inputs.target.batches.max
    example = inputs.example.expand(min(2, most), *inputs.example.shape[1:]).contiguous()
    dims = {0: torch.export.Dim("batch", min=1, max=most)} if most > 1 else {}
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
            external_data=sum(each.nbytes for each in inputs.model.parameters()) > 1 << 30,
            verbose=False,
        )


def quantize(
    path: Path, inputs: BuildInput, *, symmetric: bool = False, not_types: Sequence[str] = ()
) -> None:
    """In place; what the job keeps stays in fp32, and operators of `not_types`."""
    import onnx

    nncf, clips = nncf_and_clips(inputs)
    model = onnx.load(path)
    fp32_layers = [
        node.name for node in model.graph.node if _lies_in(node, inputs.target.fp32_layers)
    ]
    presets = nncf.QuantizationPreset
    quantized = nncf.quantize(
        model,
        nncf.Dataset(clips, lambda clip: {INPUT: clip.numpy()}),
        subset_size=len(clips),
        preset=presets.PERFORMANCE if symmetric else None,
        ignored_scope=nncf.IgnoredScope(types=list(not_types), names=fp32_layers, validate=False),
    )
    onnx.save(quantized, path)


def _lies_in(node: "onnx.NodeProto", modules: Collection[str]) -> bool:
    scopes = next((each.value for each in node.metadata_props if each.key == SCOPES), "")
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
    except Exception as error:  # its errors have no class of their own in common
        reason = str(error).splitlines()[0]
        raise CompileError(f"onnxruntime can't open {folder / MODEL} ({reason}).") from error

    def run(clips: torch.Tensor) -> torch.Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: clips.cpu().numpy()})
        return torch.from_numpy(logits)

    return run
