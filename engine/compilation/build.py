"""The steps of `engine compile`: gather, build, prove, search, seal.

Joins the loaders (dali_pipelines), the checkpoint (engine) and the compilers (trt).
"""

import dataclasses
import hashlib
import json
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine import atomic
from engine.compilation.request import CompileRequest
from engine.compilation.source import BATCH_SIZE, CompileSource, row_facts
from engine.errors import RefusedError, UserError
from engine.memory import keep_freed_memory
from engine.progress import progress_bar
from trt import artifact
from trt.backends import BACKENDS
from trt.build_input import BuildInput
from trt.config import ArtifactConfig, Target
from trt.errors import CompileError
from trt.parity import Budget, Logits, Parity, answers, compare
from trt.probe import Gpu, this_device, this_gpu, user_cache, versions

PROOF_BYTES = 32 << 20
"""The most that the clips kept in an artifact may take."""


def key_of(request: CompileRequest, source: CompileSource) -> str:
    """The same for the same weights, clips, target, device and libraries; else another."""
    clips = [row_facts(source.proof_rows)]
    if request.target.precision in ("int8", "fp8"):
        clips.append(row_facts(source.calibration_rows))
    facts = {
        "source": source.digest,
        "clip": source.config.clip.to_dict(),
        "backend": request.backend,
        "asked": request.precision,
        "target": dataclasses.asdict(request.target),
        "budget": dataclasses.asdict(request.budget),
        "device": this_device(),
        "versions": versions(BACKENDS[request.backend].PACKAGES),
        "clips": clips,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def build(
    request: CompileRequest,
    source: CompileSource,
    stage: Path,
    gpu: Gpu | None,
    log: Callable[[str], None],
) -> ArtifactConfig:
    """Fill `stage` with an artifact that passed, or raise; layers that break are kept in fp32."""
    from trt.precision_search import widen

    config, parity = _attempt(request, source, stage, request.target, gpu, log)
    if parity.passed:
        return config
    log(f"it doesn't pass: {parity.in_words()}")
    if request.target.precision in ("fp32", "tf32"):
        raise _refused(request, parity, "")
    ranked = _rank(request, source)
    worst = ", ".join(f"{each.name} ({each.error:.2g})" for each in ranked[:5])
    log(f"what breaks most in {request.target.precision}, by the error of a logit: {worst}")
    fp32_layers: tuple[str, ...] = ()
    for fp32_layers in widen(ranked):
        log(f"again, with {len(fp32_layers)} of {len(ranked)} layers in fp32")
        target = dataclasses.replace(request.target, fp32_layers=fp32_layers)
        try:
            config, parity = _attempt(request, source, stage, target, gpu, log)
        except CompileError as error:
            raise _refused(request, parity, f"; {str(error).rstrip('.')}") from error
        if parity.passed:
            log(f"kept in fp32: {', '.join(fp32_layers)}")
            return config
    raise _refused(request, parity, f"; even with {len(fp32_layers)} layers in fp32")


def _refused(request: CompileRequest, parity: Parity, more: str) -> RefusedError:
    return RefusedError(
        f"no artifact is written: in {request.target.precision} by {request.backend} "
        f"{parity.in_words()}{more}. Take a more exact --precision, or --accept-drift."
    )


def _rank(request: CompileRequest, source: CompileSource) -> list[Any]:
    import torch

    from trt.precision_search import NUM_CLIPS, candidates, rank

    clips = torch.cat([batch.clips for batch in source.proof[: NUM_CLIPS // BATCH_SIZE]])
    total = len(candidates(source.folded, request.target.precision, clips[:1]))
    with progress_bar("Lowering each layer alone", total=total, unit="layers") as advance:
        return rank(source.folded, request.target.precision, clips, advance)


def _attempt(
    request: CompileRequest,
    source: CompileSource,
    stage: Path,
    target: Target,
    gpu: Gpu | None,
    log: Callable[[str], None],
) -> tuple[ArtifactConfig, Parity]:
    """Build once, and prove it."""
    from trt.program import lowered

    for each in stage.iterdir():
        each.unlink()
    backend = BACKENDS[request.backend]
    if target.precision in backend.LOWERS:
        model = source.folded
    else:
        model = lowered(source.folded, target.precision, target.fp32_layers)
    started = time.perf_counter()
    inputs = BuildInput(
        model=model,
        example=source.proof[0].clips[:1],
        target=target,
        calibration=source.calibration,
        on_step=lambda step: log(f"{request.backend}: {step} …"),
    )
    partition = backend.build(inputs, stage)
    config = ArtifactConfig(
        backend=request.backend,
        asked=request.precision,
        target=target,
        clip=source.config.clip.to_dict(),
        model=source.config.model.to_dict(),
        class_names=source.config.class_names,
        source=source.digest,
        chosen_by=source.chosen_by,
        key=key_of(request, source),
        device=this_device(),
        versions=versions(backend.PACKAGES),
        partition=partition,
        build={
            "seconds": round(time.perf_counter() - started, 2),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        },
    )
    where = backend.runs_on(gpu)
    if where:
        run: Any = artifact.Artifact(config, backend.load(stage, config))
        proved_on = this_device()
    else:
        run, proved_on = model, "torch on the CPU in its place: this machine can't run the engine"
    found = source.ask(run, "Asking the compiled model")
    parity = compare(
        source.reference, found, source.labels, budget=request.budget, proved_on=proved_on
    )
    facts = {**parity.to_dict(), "proved": bool(where), **_intervals(source, found)}
    return dataclasses.replace(config, parity=facts), parity


def _keep_proof(source: CompileSource, stage: Path) -> None:
    """Some clips and the fp32 model's answers, by which a rebuilt engine is proved elsewhere."""
    import torch
    from safetensors.torch import save_file

    clips = torch.cat([batch.clips for batch in source.proof[:2]])
    clips = clips[: max(1, PROOF_BYTES // clips[0].nbytes)]
    held_out = {
        "clips": clips.contiguous(),
        "labels": torch.from_numpy(source.labels[: len(clips)]),
        "logits": torch.from_numpy(source.reference[: len(clips)]),
    }
    save_file(held_out, stage / artifact.PROOF)


def rebuild(
    folder: Path, stage: Path, gpu: Gpu | None, log: Callable[[str], None]
) -> ArtifactConfig:
    """An engine for this machine from the program in an artifact for another one."""
    from safetensors.torch import load_file

    config = artifact.check(folder)
    backend = BACKENDS[config.backend]
    if not backend.BOUND_TO:
        raise UserError(f"{folder} opens on any machine, as {config.backend} does: copy it.")
    where = backend.runs_on(gpu)
    if not where:
        raise RefusedError(f"this machine can't run what {config.backend} builds.")
    proof = load_file(folder / artifact.PROOF)
    started = time.perf_counter()
    inputs = BuildInput(
        model=None,
        stored=folder,
        example=proof["clips"][:1],
        target=config.target,
        on_step=lambda step: log(f"{config.backend}: {step} …"),
    )
    partition = backend.build(inputs, stage)
    config = dataclasses.replace(
        config,
        device=this_device(),
        versions=versions(backend.PACKAGES),
        partition=partition,
        build={"seconds": round(time.perf_counter() - started, 2)},
    )
    run = artifact.Artifact(config, backend.load(stage, config))
    parity = compare(
        proof["logits"].numpy(),
        answers(run, proof["clips"].split(BATCH_SIZE)),
        proof["labels"].numpy(),
        budget=Budget(**config.parity["budget"]),
        proved_on=this_device(),
    )
    if not parity.passed:
        raise RefusedError(f"no artifact is written: rebuilt, {parity.in_words()}.")
    for name in (artifact.PROOF, "manifest.csv", "run.json"):
        shutil.copyfile(folder / name, stage / name)
    return dataclasses.replace(config, parity={**parity.to_dict(), "proved": True})


def _intervals(source: CompileSource, found: Logits) -> dict[str, Any]:
    """95% of both accuracies; clips of one source are drawn together."""
    from engine.evaluation.metrics import bootstrap_interval

    listed, scheme = source.clips
    groups = [
        listed.clips[number].source for batch in source.proof for number in batch.ids.tolist()
    ]
    named = {"accuracy_interval": found, "reference_accuracy_interval": source.reference}
    return {
        "clips": f"held out under {scheme}",
        **{
            name: bootstrap_interval(logits.argmax(axis=1) == source.labels, groups)
            for name, logits in named.items()
        },
    }


def copy(folder: Path, out: Path) -> None:
    """A finished artifact under another name; the same bytes on disk where that is possible."""
    for path in folder.iterdir():
        try:
            (out / path.name).hardlink_to(path)
        except OSError:
            shutil.copyfile(path, out / path.name)


def compile_run(
    request: CompileRequest, out: Path, *, log: Callable[[str], None]
) -> ArtifactConfig:
    """Build, prove and write an artifact to `out`, or raise and write nothing."""
    gpu = _prepare(out)
    return cached(request, gpu, out, log)


def rebuild_in(folder: Path, out: Path, *, log: Callable[[str], None]) -> ArtifactConfig:
    """The same from an artifact that was built for another machine."""
    gpu = _prepare(out)
    with atomic.new_folder(out) as stage:
        return artifact.seal(stage, rebuild(folder, stage, gpu, log))


def _prepare(out: Path) -> Gpu | None:
    atomic.require_new(out)
    gpu = this_gpu()
    if gpu is None:
        keep_freed_memory()
    return gpu


def cached(
    request: CompileRequest, gpu: Gpu | None, out: Path, log: Callable[[str], None]
) -> ArtifactConfig:
    """The artifact as `out`: built under a lock and kept, or what was built and kept before."""
    from filelock import FileLock

    folder = request.cache or user_cache() / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    source = CompileSource(dataclasses.replace(request, cache=folder))
    finished = folder / key_of(request, source)
    with FileLock(finished.with_suffix(".lock")):
        config = _sound(finished)
        if config is not None:
            log(f"built before, with the same weights, clips and libraries: {finished}")
        else:
            shutil.rmtree(finished, ignore_errors=True)
            _refuse_full(folder, source)
            with atomic.new_folder(finished) as stage:
                config = build(request, source, stage, gpu, log)
                _keep_proof(source, stage)
                _keep_clips(source, stage)
                config = artifact.seal(stage, config)
        with atomic.new_folder(out) as stage:
            copy(finished, stage)
    return config


def _refuse_full(folder: Path, source: CompileSource) -> None:
    """Compilers don't say that the disk is full; some take the whole process down."""
    needed = 2 * (source.checkpoint / "model.safetensors").stat().st_size + PROOF_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RefusedError(
            f"{folder} has {free / 2**20:,.0f} MiB left where a build takes about "
            f"{needed / 2**20:,.0f}: make room, or name another --cache."
        )


def _sound(finished: Path) -> ArtifactConfig | None:
    if not finished.is_dir():
        return None
    try:
        return artifact.check(finished)
    except CompileError:
        return None


def _keep_clips(source: CompileSource, stage: Path) -> None:
    """Which clips were held back, so that the artifact can be evaluated like its run."""
    listed, scheme = source.clips
    dataclasses.replace(listed, root=stage).save()
    facts = {"data": str(listed.root.absolute()), "scheme": scheme}
    (stage / "run.json").write_text(json.dumps(facts, indent=2) + "\n")
