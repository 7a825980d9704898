"""Writes a Triton model repository: DALI preprocessing, the compiled model, and their ensemble."""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from dali_pipelines.loaders import triton_pipeline
from dali_pipelines.loaders.triton_pipeline import Device
from dali_pipelines.spec import ClipSpec
from engine.atomic import new_folder
from engine.serving.triton_readme import readme
from trt import artifact as artifacts
from trt import triton_export
from trt.config import ArtifactConfig
from trt.triton_export import Message, Word, parameter, tensor

NUM_THREADS = 4
"""DALI threads on the server; a parameter in config.pbtxt."""
PREPROCESSED = "preprocessed"
"""Name of the tensor between the two steps of the ensemble."""


@dataclass(frozen=True, kw_only=True)
class TritonRepository:
    name: str
    start: str
    """The command that starts a server."""
    notes: list[str]


def write(artifact: Path, folder: Path, *, name: str, device: str) -> TritonRepository:
    """Write the repository of an artifact to `folder`.

    Args:
        artifact: The artifact to serve.
        folder: The new repository.
        name: Name of the model; empty for the name of the artifact.
        device: Device of the preprocessing: auto, gpu or cpu.
    """
    config = artifacts.check(artifact)
    payload = triton_export.payload_of(config, artifact)
    name = triton_export.check_name(name or artifact.resolve().name)
    spec = ClipSpec.from_dict(config.clip)
    resolved_device = _device(device, config)
    with new_folder(folder) as root:
        triton_export.write_model(root / name, artifact, config, name=name)
        _write_preprocess(root / f"{name}_preprocess", config, spec, resolved_device)
        ensemble = root / f"{name}_ensemble"
        (ensemble / triton_export.VERSION).mkdir(parents=True)  # empty, but Triton requires it
        triton_export.write_config(ensemble, _ensemble(name, config, spec, resolved_device))
        triton_export.write_labels(ensemble, config)
        start = _start(folder, resolved_device)
        notes = _notes(config, resolved_device)
        if not payload.batches:
            notes.append("Triton runs requests one at a time: its OpenVINO backend can't batch")
        text = readme(name=name, device=resolved_device, start=start, notes=notes)
        (root / "README.md").write_text(text, encoding="utf-8")
    return TritonRepository(name=name, start=start, notes=notes)


def _device(device: str, config: ArtifactConfig) -> Device:
    if device == "auto":
        return "cpu" if config.backend == "openvino" else "gpu"
    return "cpu" if device == "cpu" else "gpu"


def _write_preprocess(folder: Path, config: ArtifactConfig, spec: ClipSpec, device: Device) -> None:
    max_batch_size = triton_export.max_batch_size(config)
    pipeline = triton_pipeline.serialize(
        device, spec, max_clips=max_batch_size, num_threads=NUM_THREADS
    )
    inputs = triton_pipeline.inputs(device, spec)
    triton_export.write_config(
        folder,
        {
            "name": folder.name,
            "backend": "dali",
            "max_batch_size": max_batch_size,
            # Files differ in length and frames in size, so the batch is ragged.
            "input": [{**tensor(key, *inputs[key]), "allow_ragged_batch": True} for key in inputs],
            "output": [tensor(key, *info) for key, info in triton_pipeline.output(spec).items()],
            "dynamic_batching": triton_export.dynamic_batching(config),
            "instance_group": [{"count": 1, "kind": Word(f"KIND_{device.upper()}")}],
            "parameters": [parameter("num_threads", str(NUM_THREADS))],
        },
    )
    (folder / triton_export.VERSION).mkdir()
    (folder / triton_export.VERSION / "model.dali").write_bytes(pipeline)


def _ensemble(name: str, config: ArtifactConfig, spec: ClipSpec, device: Device) -> Message:
    inputs = triton_pipeline.inputs(device, spec)
    model = triton_export.model_config(config, triton_export.PAYLOADS[config.backend], name=name)
    (clips,), (logits,) = model["input"], model["output"]
    return {
        "name": f"{name}_ensemble",
        "platform": "ensemble",
        "max_batch_size": triton_export.max_batch_size(config),
        "input": [tensor(key, *info) for key, info in inputs.items()],
        "output": [triton_export.logits(config)],
        # Clients need the spec to sample and resize as in training.
        "parameters": [parameter("clip", json.dumps(spec.to_dict()))],
        "ensemble_scheduling": {
            "step": [
                _step(
                    f"{name}_preprocess",
                    {key: key for key in inputs},
                    {triton_pipeline.OUTPUT: PREPROCESSED},
                ),
                _step(name, {clips["name"]: PREPROCESSED}, {logits["name"]: logits["name"]}),
            ]
        },
    }


def _step(model: str, inputs: dict[str, str], outputs: dict[str, str]) -> Message:
    return {
        "model_name": model,
        "model_version": -1,
        "input_map": [{"key": key, "value": value} for key, value in inputs.items()],
        "output_map": [{"key": key, "value": value} for key, value in outputs.items()],
    }


def _start(folder: Path, device: Device) -> str:
    # DALI's C interface, which Triton uses, defaults to the older executor. That one can't read
    # the sizes of frames on the GPU from the CPU, as resizing does.
    executor = "DALI_USE_EXEC2=1 " if device == "gpu" else ""
    return f"{executor}tritonserver --model-repository {folder}"


def _notes(config: ArtifactConfig, device: Device) -> list[str]:
    notes = [f"Triton needs DALI {version('nvidia-dali-cuda120')} or newer"]
    if device == "gpu":
        notes.append("Triton needs DALI_USE_EXEC2=1 in its environment to load the preprocessing")
    if config.backend == "openvino":
        if used := config.versions.get("openvino"):
            notes.append(f"Triton needs OpenVINO {used} or newer")
        if config.target.precision != "bf16":
            notes.append("on a CPU with bf16, Triton's OpenVINO always computes in bf16")
    return notes
