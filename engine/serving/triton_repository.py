"""A Triton model repository: the compiled model of `trt` behind the graph of `dali_pipelines`."""

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
"""Of DALI on the server; config.pbtxt has it as a parameter."""
MADE = "preprocessed"
"""The ensemble's own name for the clips between its two steps."""


@dataclass(frozen=True, kw_only=True)
class Made:
    name: str
    start: str
    """The command that starts a server."""
    notes: list[str]


def write(artifact: Path, folder: Path, *, name: str, device: str) -> Made:
    config = artifacts.check(artifact)
    payload = triton_export.payload_of(config, artifact)
    name = triton_export.check_name(name or artifact.resolve().name)
    spec = ClipSpec.from_dict(config.clip)
    place = _device(device, config)
    with new_folder(folder) as made:
        triton_export.write_model(made / name, artifact, config, name=name)
        _write_preprocess(made / f"{name}_preprocess", config, spec, place)
        ensemble = made / f"{name}_ensemble"
        (ensemble / triton_export.VERSION).mkdir(parents=True)  # empty, but Triton asks for it
        triton_export.write_config(ensemble, _ensemble(name, config, spec, place))
        triton_export.write_labels(ensemble, config)
        start, notes = _start(folder, place), _notes(config, place)
        if not payload.batches:
            notes.append("Triton runs each request by itself: its OpenVINO backend can't batch")
        text = readme(name=name, device=place, start=start, notes=notes)
        (made / "README.md").write_text(text, encoding="utf-8")
    return Made(name=name, start=start, notes=notes)


def _device(asked: str, config: ArtifactConfig) -> Device:
    if asked == "auto":
        return "cpu" if config.backend == "openvino" else "gpu"
    return "cpu" if asked == "cpu" else "gpu"


def _write_preprocess(folder: Path, config: ArtifactConfig, spec: ClipSpec, device: Device) -> None:
    most = triton_export.max_batch_size(config)
    pipeline = triton_pipeline.serialize(device, spec, max_clips=most, num_threads=NUM_THREADS)
    inputs = triton_pipeline.inputs(device, spec)
    triton_export.write_config(
        folder,
        {
            "name": folder.name,
            "backend": "dali",
            "max_batch_size": most,
            # Files differ in length, and frames in size; the backend takes them as they are.
            "input": [{**tensor(key, *inputs[key]), "allow_ragged_batch": True} for key in inputs],
            "output": [tensor(key, *each) for key, each in triton_pipeline.output(spec).items()],
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
        "input": [tensor(key, *each) for key, each in inputs.items()],
        "output": [triton_export.logits(config)],
        # So that a client samples and resizes as the model was trained, whoever wrote it.
        "parameters": [parameter("clip", json.dumps(spec.to_dict()))],
        "ensemble_scheduling": {
            "step": [
                _step(
                    f"{name}_preprocess",
                    {key: key for key in inputs},
                    {triton_pipeline.OUTPUT: MADE},
                ),
                _step(name, {clips["name"]: MADE}, {logits["name"]: logits["name"]}),
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
    # DALI's C interface, by which Triton opens a pipeline, takes the older executor if not told
    # otherwise; that one can't look at a GPU's picture sizes from the CPU, as resizing does.
    executor = "DALI_USE_EXEC2=1 " if device == "gpu" else ""
    return f"{executor}tritonserver --model-repository {folder}"


def _notes(config: ArtifactConfig, device: Device) -> list[str]:
    notes = [f"Triton must have DALI {version('nvidia-dali-cuda120')}, or a newer one"]
    if device == "gpu":
        notes.append("Triton needs DALI_USE_EXEC2=1 in its environment to load the preprocessing")
    if config.backend == "openvino":
        if used := config.versions.get("openvino"):
            notes.append(f"Triton must have OpenVINO {used}, or a newer one")
        if config.target.precision != "bf16":
            notes.append(
                "on a CPU with bf16, Triton's OpenVINO computes in it, and can't be told not to"
            )
    return notes
