"""Exports an artifact as a model for NVIDIA's Triton Inference Server: files and config.pbtxt.

Only artifacts that Triton's own backends can load are exported:

onnx       onnxruntime takes any batch size up to the maximum, and Triton batches requests.
openvino   The backend expects batches of exactly max_batch_size clips. It can pad them, but then
           miscounts after a full batch. So batching is disabled in Triton: the batch is a dynamic
           dimension of the model, and each request runs separately.

A `Message` is the content of a config.pbtxt; `to_text` converts it to protobuf's text format.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt.backends import onnx_backend, openvino_backend
from trt.config import ArtifactConfig
from trt.errors import CompileError

Message = dict[str, Any]
Dims = tuple[int, ...]
LABELS = "labels.txt"
VERSION = "1"
QUEUE_DELAY_US = 2000
"""Microseconds that a request waits to be batched; short compared with the time of a clip."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Word(str):
    """A protobuf identifier, which is written without quotes."""


@dataclass(frozen=True, kw_only=True)
class Payload:
    """What Triton needs of an artifact."""

    files: tuple[str, ...]
    optional: tuple[str, ...] = ()
    runs_on: Message
    """Config entry that selects Triton's backend."""
    batches: bool
    """Whether Triton may batch requests."""


PAYLOADS: dict[str, Payload] = {
    "onnx": Payload(
        files=(onnx_backend.MODEL,),
        optional=(f"{onnx_backend.MODEL}.data",),
        runs_on={"platform": "onnxruntime_onnx"},
        batches=True,
    ),
    "openvino": Payload(
        files=(openvino_backend.MODEL, openvino_backend.WEIGHTS),
        runs_on={"backend": "openvino"},
        batches=False,
    ),
}
UNSUPPORTED: dict[str, str] = {
    "tensorrt": "runs parts of the model in torch, and Triton loads only complete TensorRT plans",
    "tensorrt-rtx": "builds engines that Triton's TensorRT backend can't load",
    "inductor": "builds packages that Triton supports only in beta, one clip at a time",
    "eager": "saves a torch program, for which Triton has no backend",
}


def payload_of(config: ArtifactConfig, folder: Path) -> Payload:
    """Return what Triton needs of an artifact.

    Raises:
        CompileError: Triton can't run artifacts of this backend.
    """
    if config.backend not in PAYLOADS:
        why = UNSUPPORTED.get(config.backend, "is not supported by this export")
        known = " or ".join(PAYLOADS)
        raise CompileError(
            f"{folder} can't be served by Triton: {config.backend} {why}; "
            f"compile with `backend` {known}."
        )
    return PAYLOADS[config.backend]


def check_name(name: str) -> str:
    """Return a model name that Triton accepts, or raise CompileError."""
    if not NAME.fullmatch(name):
        raise CompileError(
            f"{name!r} is not a valid model name in Triton; pass `name` with letters, digits, _ . "
            "and -."
        )
    return name


def max_batch_size(config: ArtifactConfig) -> int:
    """Largest batch size of the models around this one, which may itself have no batching."""
    return config.target.batches.max


def write_model(folder: Path, artifact: Path, config: ArtifactConfig, *, name: str) -> None:
    """Export an artifact as a Triton model.

    Args:
        folder: New folder of the model.
        artifact: An artifact that was checked.
        config: Config of the artifact.
        name: Name of the model in Triton.

    Raises:
        CompileError: Triton can't run this artifact.
    """
    payload = payload_of(config, artifact)
    version = folder / VERSION
    version.mkdir(parents=True)
    for file in payload.files:
        shutil.copyfile(artifact / file, version / file)
    for file in payload.optional:
        if file in config.files:
            shutil.copyfile(artifact / file, version / file)
    write_config(folder, model_config(config, payload, name=name))
    write_labels(folder, config)


def model_config(config: ArtifactConfig, payload: Payload, *, name: str) -> Message:
    """Content of the model's config.pbtxt."""
    batches = config.target.batches
    batched = payload.batches and batches.max > 1
    size = () if batched else (-1 if batches.max > 1 else 1,)
    message: Message = {
        "name": name,
        **payload.runs_on,
        "max_batch_size": batches.max if batched else 0,
        "input": [tensor(onnx_backend.INPUT, "UINT8", (*size, *clip_dims(config)))],
        "output": [logits(config, size)],
    }
    if batched:
        message["dynamic_batching"] = dynamic_batching(config)
    if config.backend == "openvino":
        message["instance_group"] = [{"count": 1, "kind": Word("KIND_CPU")}]
        if config.target.precision == "bf16":
            message["parameters"] = [parameter("HINT_BF16", "YES")]
    return message


def clip_dims(config: ArtifactConfig) -> Dims:
    """Shape of one input clip."""
    clip = config.clip
    return clip["num_frames"], 3, clip["crop"], clip["crop"]


def logits(config: ArtifactConfig, size: Dims = ()) -> Message:
    """Output of the model; Triton takes the class names from labels.txt."""
    message = tensor(onnx_backend.OUTPUT, "FP32", (*size, len(config.class_names)))
    return {**message, "label_filename": LABELS}


def tensor(name: str, kind: str, dims: Dims) -> Message:
    return {"name": name, "data_type": Word(f"TYPE_{kind}"), "dims": list(dims)}


def parameter(key: str, value: str) -> Message:
    return {"key": key, "value": {"string_value": value}}


def dynamic_batching(config: ArtifactConfig) -> Message:
    return {
        "preferred_batch_size": [config.target.batches.opt],
        "max_queue_delay_microseconds": QUEUE_DELAY_US,
    }


def write_labels(folder: Path, config: ArtifactConfig) -> None:
    """Write the class names, one per line, in the order of the logits."""
    for name in config.class_names:
        if len(name.splitlines()) != 1:
            raise CompileError(f"the class {name!r} doesn't fit one line of {LABELS}; rename it.")
    text = "".join(f"{name}\n" for name in config.class_names)
    (folder / LABELS).write_text(text, encoding="utf-8", errors="surrogateescape")


def write_config(folder: Path, message: Message) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(to_text(message), encoding="utf-8")


def to_text(message: Message, indent: str = "") -> str:
    """Format a message in protobuf's text format."""
    return "".join(f"{indent}{key}{_value(value, indent)}\n" for key, value in message.items())


def _value(value: Any, indent: str) -> str:
    if isinstance(value, dict):
        return f" {{\n{to_text(value, indent + '  ')}{indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        inner = indent + "  "
        items = ",\n".join(f"{inner}{{\n{to_text(item, inner + '  ')}{inner}}}" for item in value)
        return f" [\n{items}\n{indent}]"
    if isinstance(value, list):
        return f": [ {', '.join(map(_scalar, value))} ]"
    return f": {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not isinstance(value, Word):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
