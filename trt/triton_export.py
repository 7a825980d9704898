"""An artifact as a model of NVIDIA's Triton Inference Server: its payload, and a config.pbtxt.

Only what Triton's own backends open is exported. What each needs was read from its sources:

onnx       onnxruntime takes any batch up to the largest, and Triton puts requests together.
openvino   The backend wants batches of exactly max_batch_size clips. It can fill them up, but then
           counts wrongly once a full one comes. So Triton isn't told of a batch: it is an open
           dimension of the model's, and each request is run as it comes.

`Message` is what a config.pbtxt holds; `written` turns it into protobuf's text format.
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
"""How long a request waits for others to share its batch: little beside what a clip takes."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Word(str):
    """A name of protobuf's, which is written without quotes."""


@dataclass(frozen=True, kw_only=True)
class Payload:
    files: tuple[str, ...]
    optional: tuple[str, ...] = ()
    runs_on: Message
    """Which of Triton's backends opens it."""
    batches: bool
    """Whether Triton may put requests together."""


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
REFUSED: dict[str, str] = {
    "tensorrt": "runs parts of the model in torch, and Triton opens only whole TensorRT plans",
    "tensorrt-rtx": "makes engines that Triton's TensorRT backend doesn't open",
    "inductor": "makes packages that Triton runs as a beta, and one clip at a time",
    "eager": "keeps a torch program, for which Triton has no backend",
}


def payload_of(config: ArtifactConfig, folder: Path) -> Payload:
    if config.backend not in PAYLOADS:
        why = REFUSED.get(config.backend, "is unknown to this export")
        known = " or ".join(PAYLOADS)
        raise CompileError(
            f"{folder} can't be served by Triton: {config.backend} {why}; "
            f"compile with --backend {known}."
        )
    return PAYLOADS[config.backend]


def check_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise CompileError(
            f"{name!r} can't name a model in Triton; pass --name with letters, digits, _ . and -."
        )
    return name


def max_batch_size(config: ArtifactConfig) -> int:
    """Of what goes round the model, which itself may know no batch."""
    return config.target.batches.max


def write_model(folder: Path, artifact: Path, config: ArtifactConfig, *, name: str) -> None:
    """`artifact` is a checked one; `folder` is new."""
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
    batches = config.target.batches
    batched = payload.batches and batches.max > 1
    size = () if batched else (-1 if batches.max > 1 else 1,)
    made: Message = {
        "name": name,
        **payload.runs_on,
        "max_batch_size": batches.max if batched else 0,
        "input": [tensor(onnx_backend.INPUT, "UINT8", (*size, *clip_dims(config)))],
        "output": [logits(config, size)],
    }
    if batched:
        made["dynamic_batching"] = dynamic_batching(config)
    if config.backend == "openvino":
        made["instance_group"] = [{"count": 1, "kind": Word("KIND_CPU")}]
        if config.target.precision == "bf16":
            made["parameters"] = [parameter("HINT_BF16", "YES")]
    return made


def clip_dims(config: ArtifactConfig) -> Dims:
    """Of one clip as the model takes it."""
    clip = config.clip
    return clip["num_frames"], 3, clip["crop"], clip["crop"]


def logits(config: ArtifactConfig, size: Dims = ()) -> Message:
    """The output; Triton reads labels.txt to answer with a class's name."""
    made = tensor(onnx_backend.OUTPUT, "FP32", (*size, len(config.class_names)))
    return {**made, "label_filename": LABELS}


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
    """A class a line, in the order of the logits."""
    for name in config.class_names:
        if len(name.splitlines()) != 1:
            raise CompileError(f"the class {name!r} doesn't fit one line of {LABELS}; rename it.")
    text = "".join(f"{name}\n" for name in config.class_names)
    (folder / LABELS).write_text(text, encoding="utf-8", errors="surrogateescape")


def write_config(folder: Path, message: Message) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(written(message), encoding="utf-8")


def written(message: Message, indent: str = "") -> str:
    return "".join(f"{indent}{key}{_value(value, indent)}\n" for key, value in message.items())


def _value(value: Any, indent: str) -> str:
    if isinstance(value, dict):
        return f" {{\n{written(value, indent + '  ')}{indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        inner = indent + "  "
        each = ",\n".join(f"{inner}{{\n{written(one, inner + '  ')}{inner}}}" for one in value)
        return f" [\n{each}\n{indent}]"
    if isinstance(value, list):
        return f": [ {', '.join(map(_scalar, value))} ]"
    return f": {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not isinstance(value, Word):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
