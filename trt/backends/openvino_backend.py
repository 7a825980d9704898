"""OpenVINO on a CPU. The payload is OpenVINO's own IR, which any CPU takes; it is compiled for this
one when it is opened, and what was compiled is kept in the user's cache.

The module is traced, and not exported: so its recurrent layers go over whole, and the operators
bear the modules' names, by which some can be kept in fp32.
"""

import hashlib
import json
import warnings
import xml.etree.ElementTree as ElementTree
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trt.build_input import BuildInput
from trt.calibration import nncf_and_clips
from trt.config import ArtifactConfig, Bond, Precision, nearest
from trt.errors import CompileError
from trt.probe import Gpu, Status, installed, missing, this_cpu, this_device, user_cache

if TYPE_CHECKING:
    import torch

    from trt.build_input import Run

WHERE = "CPU"
LOWERS: frozenset[Precision] = frozenset({"fp32", "tf32", "bf16", "fp16", "int8", "fp8"})
PACKAGES: tuple[str, ...] = ("openvino", "nncf")
BOUND_TO: frozenset[Bond] = frozenset()
MODEL, WEIGHTS = "model.xml", "model.bin"
INPUT, OUTPUT = "clips", "logits"
CAPABILITIES: dict[str, Precision] = {
    "FP32": "fp32", "BF16": "bf16", "FP16": "fp16", "INT8": "int8",
}  # fmt: skip
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
IN_FP32 = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:f16"}
"""What OpenVINO writes beside an operator that must not become fp16; for bf16 it has no such."""
SUMS_OF_BYTES = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Processors without these add products of bytes in 16 bits, which overflow: weights then take half
of their range."""
NOT_IN_8_BITS = ["Subtract", "ReduceMean", "LSTMSequence", "GRUSequence", "RNNSequence"]
"""What gains nothing by it and loses much: means over time, what is left of features without them,
and sums over many steps."""


def probe(gpu: Gpu | None) -> Status:
    found = installed("openvino")
    return Status(usable=True, why=found) if found else missing("OpenVINO", "openvino")


def resolve_precision(precision: Precision, gpu: Gpu | None) -> tuple[Precision, str]:
    listed = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    known = {CAPABILITIES[name] for name in listed if name in CAPABILITIES}
    return nearest(precision, known, "this CPU")


@cache
def _core() -> Any:
    """One for the process. Where the processor has AMX, each sets up a stack for signals and puts
    back what it found, which may be another's that is gone: the next signal is a crash then."""
    import openvino

    return openvino.Core()


def runs_on(gpu: Gpu | None) -> str:
    return "cpu"


def build(inputs: BuildInput, folder: Path) -> dict[str, Any]:
    import openvino

    precision, fp32_layers = inputs.target.precision, inputs.target.fp32_layers
    if fp32_layers and precision == "bf16":
        raise CompileError("OpenVINO can't keep single layers in fp32 beside bf16.")
    inputs.on_step("converting")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is on its way out, and does what we need
        model = openvino.convert_model(inputs.model, example_input=inputs.example)
    shape = [-1 if inputs.target.batches.max > 1 else 1, *inputs.example.shape[1:]]
    model.reshape(shape)
    if precision == "int8":
        model = _quantized(model, inputs)
    model.input().get_tensor().set_names({INPUT})  # by which other servers of the IR feed it
    model.output().get_tensor().set_names({OUTPUT})
    openvino.save_model(
        model, folder / MODEL, compress_to_fp16=precision == "fp16" and not fp32_layers
    )
    if fp32_layers and precision == "fp16":
        _keep(folder / MODEL, fp32_layers)
    inputs.on_step("compiling")
    operators = [each for each in model.get_ordered_ops() if each.get_type_name() != "Constant"]
    return {"engines": 1, "in_engine": len(operators), "in_torch": 0}


def _quantized(model: Any, inputs: BuildInput) -> Any:
    """Weights and activations in 8 bits, with ranges measured on training clips."""
    nncf, clips = nncf_and_clips(inputs)
    attends = any(each.get_type_name() == "ScaledDotProductAttention" for each in model.get_ops())
    patterns = [_pattern(name) for name in inputs.target.fp32_layers]
    _, flags = this_cpu()
    fix = None if flags & SUMS_OF_BYTES else nncf.OverflowFix.ENABLE
    return nncf.quantize(
        model,
        nncf.Dataset(clips, lambda clip: clip.numpy()),
        subset_size=len(clips),
        model_type=nncf.ModelType.TRANSFORMER if attends else None,
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(patterns=patterns, types=NOT_IN_8_BITS, validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
    )


def _pattern(name: str) -> str:
    """Of the operators of a module, and of all that lie in it."""
    import re

    return rf"__module\.model\.{re.escape(name)}[./].*"


def _keep(path: Path, fp32_layers: tuple[str, ...]) -> None:
    import re

    tree = ElementTree.parse(path)
    for layer in tree.iter("layer"):
        if layer.get("type") != "Const" and any(
            re.match(_pattern(name), layer.get("name", "")) for name in fp32_layers
        ):
            facts = layer.find("rt_info")
            if facts is None:
                facts = ElementTree.SubElement(layer, "rt_info")
                layer.remove(facts)
                layer.insert(1, facts)
            ElementTree.SubElement(facts, "attribute", IN_FP32)
    tree.write(path)


def load(folder: Path, config: ArtifactConfig) -> "Run":
    core = _core()
    try:
        model = core.read_model(folder / MODEL)
    except RuntimeError as error:
        raise CompileError(f"{folder / MODEL} can't be read: compile the model anew.") from error
    return _Runner(core, model, config)


class _Runner:
    """One clip by itself gets all cores; of several, each core takes one at a time.

    Greater batches bring nothing more on a CPU, and a shape that is known beforehand does. Both
    ways compute alike but for rounding, so within a batch there is one: an answer must not hang on
    how many clips are beside it.
    """

    def __init__(self, core: Any, model: Any, config: ArtifactConfig) -> None:
        shape = list(model.input(0).partial_shape)[1:]
        model.reshape([1, *(each.get_length() for each in shape)])
        self._core, self._model, self._files = core, model, config.files
        self._hint = HINTS.get(config.target.precision) or _around_int8(core, config)

    @cached_property
    def _single(self) -> Any:
        return self._compiled("LATENCY").create_infer_request()

    @cached_property
    def _queue(self) -> Any:
        import openvino

        return openvino.AsyncInferQueue(self._compiled("THROUGHPUT"))

    def _compiled(self, wanted: str) -> Any:
        hints = {"INFERENCE_PRECISION_HINT": self._hint, "PERFORMANCE_HINT": wanted}
        if self._files:
            hints["CACHE_DIR"] = str(_cache(self._files, hints))
        return self._core.compile_model(self._model, "CPU", hints)

    def __call__(self, clips: "torch.Tensor") -> "torch.Tensor":
        import torch

        array = clips.contiguous().numpy()
        found: list[Any] = [None] * len(array)
        if len(array) == 1:
            self._single.infer([array], share_inputs=True)
            _store(found, self._single, 0)
        else:
            self._queue.set_callback(partial(_store, found))
            for number in range(len(array)):
                self._queue.start_async([array[number : number + 1]], number, share_inputs=True)
            self._queue.wait_all()
        return torch.from_numpy(np.concatenate(found))


def _cache(files: dict[str, str], hints: dict[str, str]) -> Path:
    """A folder for each way to compile a model: OpenVINO's own key leaves the hints out, and gives
    back what was compiled for another precision."""
    facts = [files, hints, this_device(), installed("openvino")]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return user_cache() / "openvino" / key


def _store(found: list[Any], request: Any, number: int) -> None:
    found[number] = request.get_output_tensor().data.copy()


def _around_int8(core: Any, config: ArtifactConfig) -> str:
    """What isn't in 8 bits is in bf16 where the CPU has it, unless layers were kept in fp32."""
    listed = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in listed and not config.target.fp32_layers else "f32"
