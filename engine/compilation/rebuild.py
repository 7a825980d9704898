"""Rebuilds an artifact from another machine for this one, and checks its parity again."""

import dataclasses
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from engine import atomic
from engine.compilation.build import prepare
from engine.compilation.compile_source import BATCH_SIZE
from engine.errors import RefusedError, UserError
from trt import artifact, backends
from trt.backends import BACKENDS
from trt.build_input import BuildInput
from trt.config import ArtifactConfig
from trt.parity import Budget, answers, compare
from trt.probe import Gpu, this_device, versions


def rebuild_in(folder: Path, out: Path, *, log: Callable[[str], None]) -> ArtifactConfig:
    """Rebuild an artifact from another machine for this one, and write it to `out`."""
    gpu = prepare(out)
    with atomic.new_folder(out) as stage:
        return artifact.seal(stage, rebuild(folder, stage, gpu, log))


def rebuild(
    folder: Path, stage: Path, gpu: Gpu | None, log: Callable[[str], None]
) -> ArtifactConfig:
    """Rebuild the engine of an artifact from another machine for this one."""
    from safetensors.torch import load_file

    config = artifact.check(folder)
    backend = BACKENDS[config.backend]
    if not backend.BOUND_TO:
        raise UserError(
            f"{folder} runs on any machine, as all {config.backend} artifacts do: copy it."
        )
    if not backend.runs_on(gpu):
        raise RefusedError(f"this machine can't run {config.backend} artifacts.")
    proof = load_file(folder / artifact.PROOF)
    started = time.perf_counter()
    inputs = BuildInput(
        model=None,
        stored=folder,
        example=proof["clips"][:1],
        target=config.target,
        on_step=lambda step: log(f"{config.backend}: {step} …"),
    )
    partition = backends.build(config.backend, inputs, stage)
    config = dataclasses.replace(
        config,
        device=this_device(),
        versions=versions(backend.PACKAGES),
        partition=partition,
        build={"seconds": round(time.perf_counter() - started, 2)},
    )
    on_gpu = backend.runs_on(gpu) == "cuda"
    run = artifact.Artifact(config, backend.load(stage, config), on_gpu=on_gpu)
    parity = compare(
        proof["logits"].numpy(),
        answers(run, proof["clips"].split(BATCH_SIZE)),
        proof["labels"].numpy(),
        budget=Budget(**config.parity["budget"]),
        proved_on=this_device(),
    )
    if not parity.passed:
        raise RefusedError(f"no artifact is written: after the rebuild, {parity.in_words()}.")
    for name in (artifact.PROOF, "manifest.csv", "run.json"):
        shutil.copyfile(folder / name, stage / name)
    proved = {**parity.to_dict(), "proved": True}
    if "fast_decode" in config.parity:  # checked when the artifact was compiled
        proved["fast_decode"] = config.parity["fast_decode"]
    return dataclasses.replace(config, parity=proved)
