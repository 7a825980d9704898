"""The steps of `engine compile`: read clips, build, check parity, search for fp32 layers, seal."""

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
from engine.compilation.compile_source import BATCH_SIZE, CompileSource, row_facts
from engine.compilation.fast_decode import admit_fast_decode
from engine.compilation.merging_search import SHARES, strongest
from engine.compilation.request import CompileRequest, after_failure
from engine.errors import RefusedError
from engine.memory import keep_freed_memory
from engine.progress import progress_bar
from trt import artifact, backends
from trt.backends import BACKENDS
from trt.build_input import BuildInput
from trt.config import ArtifactConfig, Target
from trt.errors import CompileError
from trt.parity import Logits, Parity, compare
from trt.probe import Gpu, this_device, this_gpu, user_cache, versions

PROOF_BYTES = 32 << 20
"""Maximum size of the clips stored in an artifact."""


def key_of(request: CompileRequest, source: CompileSource) -> str:
    """Cache key of a build: a hash of the weights, clips, target, device and library versions."""
    clips = [row_facts(source.proof_rows)]
    if request.target.precision in ("int8", "fp8"):
        clips.append(row_facts(source.calibration_rows))
    facts = {
        "source": source.digest,
        "clip": source.config.clip.to_dict(),
        "backend": request.backend,
        "asked": request.precision,
        "target": dataclasses.asdict(request.target),
        "searches_merging": request.searches_merging,
        "fast_decode": request.fast_decode,
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
    """Build an artifact in `stage` that passes the parity check.

    If the first build fails the check, more and more of the most sensitive layers are kept in fp32.
    With `searches_merging`, the largest share of tokens is merged with which a build passes.

    Raises:
        RefusedError: No build passed.
    """
    if request.searches_merging or request.target.merged_tokens:
        source.require_tokens()
    if not request.searches_merging:
        return _build(request, source, stage, gpu, log)

    def attempt(share: float) -> ArtifactConfig | None:
        target = dataclasses.replace(request.target, merged_tokens=share)
        try:
            config, parity = _attempt(request, source, stage, target, gpu, log)
        except RefusedError as error:  # its speed, or its labels of clips decoded fast
            log(f"refused with {share:.0%} of the tokens merged: {error}")
            return None
        words = "passed" if parity.passed else "failed"
        log(f"parity check {words} with {share:.0%} of the tokens merged: {parity.in_words()}")
        return config if parity.passed else None

    config = strongest(attempt, stage)
    if config is None:
        log(f"even with {SHARES[0]:.0%} of the tokens merged the check fails: none are merged")
        return _build(request, source, stage, gpu, log)
    return config


def _build(
    request: CompileRequest,
    source: CompileSource,
    stage: Path,
    gpu: Gpu | None,
    log: Callable[[str], None],
) -> ArtifactConfig:
    from trt.precision_search import widen

    config, parity = _attempt(request, source, stage, request.target, gpu, log)
    if parity.passed:
        return config
    log(f"parity check failed: {parity.in_words()}")
    if request.target.precision in ("fp32", "tf32"):
        raise _refused(request, parity, "")
    if request.target.merged_tokens:
        _require_merging_alone(request, source)
    ranked = _rank(request, source)
    worst = ", ".join(f"{layer.name} ({layer.error:.2g})" for layer in ranked[:5])
    log(f"most sensitive layers in {request.target.precision}, by logit error: {worst}")
    fp32_layers: tuple[str, ...] = ()
    for fp32_layers in widen(ranked):
        log(f"rebuilding with {len(fp32_layers)} of {len(ranked)} layers in fp32")
        target = dataclasses.replace(request.target, fp32_layers=fp32_layers)
        try:
            config, parity = _attempt(request, source, stage, target, gpu, log)
        except CompileError as error:
            raise _refused(request, parity, f"; {str(error).rstrip('.')}") from error
        if parity.passed:
            log(f"kept in fp32: {', '.join(fp32_layers)}")
            return config
    raise _refused(request, parity, f"; even with {len(fp32_layers)} layers in fp32")


def _refused(request: CompileRequest, parity: Parity, detail: str) -> RefusedError:
    fewer = ", a smaller `merge_tokens`" if request.target.merged_tokens else ""
    return RefusedError(
        f"no artifact is written: in {request.target.in_words} by {request.backend} "
        f"{parity.in_words()}{detail}. Use a higher `precision`{fewer}, or `accept_drift`."
    )


def _require_merging_alone(request: CompileRequest, source: CompileSource) -> None:
    """Raise RefusedError if merging alone, in fp32, fails the check: no layer is to blame then."""
    model, _ = source.merged(request.target.merged_tokens)
    parity = compare(
        source.reference,
        source.predict_in_fp32(model, "Running the fp32 model with merged tokens"),
        source.labels,
        budget=request.budget,
        proved_on=this_device(),
    )
    if not parity.passed:
        raise _refused(request, parity, " by merging alone, in fp32")


def _rank(request: CompileRequest, source: CompileSource) -> list[Any]:
    import torch

    from trt.precision_search import NUM_CLIPS, candidates, rank
    from trt.tf32 import tf32

    device = "cuda" if torch.cuda.is_available() else "cpu"
    clips = torch.cat([batch.clips for batch in source.proof[: NUM_CLIPS // BATCH_SIZE]])
    model, _ = source.merged(request.target.merged_tokens)
    clips, model = clips.to(device), model.to(device)
    try:
        total = len(candidates(model, request.target.precision, clips[:1]))
        bar = progress_bar("Measuring layer sensitivity", total=total, unit="layers")
        with tf32(False), bar as advance:
            return rank(model, request.target.precision, clips, advance)
    finally:
        model.to("cpu")


def _attempt(
    request: CompileRequest,
    source: CompileSource,
    stage: Path,
    target: Target,
    gpu: Gpu | None,
    log: Callable[[str], None],
) -> tuple[ArtifactConfig, Parity]:
    """Build once and measure parity."""
    from trt.program import lowered

    for path in stage.iterdir():
        path.unlink()
    backend = BACKENDS[request.backend]
    model, words = source.merged(target.merged_tokens)
    if words:
        log(words)
    if target.precision not in backend.LOWERS:
        model = lowered(model, target.precision, target.fp32_layers)
    started = time.perf_counter()
    inputs = BuildInput(
        model=model,
        example=source.proof[0].clips[:1],
        target=target,
        calibration=source.calibration,
        on_step=lambda step: log(f"{request.backend}: {step} …"),
    )
    partition = backends.build(request.backend, inputs, stage)
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
    device = backend.runs_on(gpu)
    if device:
        run: Any = artifact.Artifact(config, backend.load(stage, config), on_gpu=device == "cuda")
        proved_on = this_device()
    else:
        run, proved_on = model, "PyTorch on the CPU instead: this machine can't run the engine"
    if device == "cuda" and target.precision in ("int8", "fp8"):
        partition = {**partition, "clips_per_s": _speeds(source, run, target)}
        config = dataclasses.replace(config, partition=partition)
    logits = source.predict(run, "Running the compiled model")
    parity = compare(
        source.reference, logits, source.labels, budget=request.budget, proved_on=proved_on
    )
    facts = {**parity.to_dict(), "proved": bool(device), **_intervals(source, logits)}
    config = dataclasses.replace(config, parity=facts)
    if request.fast_decode and parity.passed:
        config = admit_fast_decode(
            config, source, run, logits, budget=request.budget, proved_on=proved_on
        )
    return config, parity


def _speeds(source: CompileSource, run: Any, target: Target) -> dict[str, float]:
    """Clips per second of the compiled model and of bf16; raises RefusedError if bf16 is faster."""
    from engine.compilation.speed import require_faster_than_bf16
    from trt.program import lowered

    model, _ = source.merged(target.merged_tokens)
    in_bf16 = lowered(model, "bf16").to("cuda")
    clips = source.proof[0].clips.to("cuda")
    return require_faster_than_bf16(target.precision, run, in_bf16, clips)


def _keep_proof(source: CompileSource, stage: Path) -> None:
    """Store clips and the fp32 model's logits, to check parity after a rebuild elsewhere."""
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


def _intervals(source: CompileSource, logits: Logits) -> dict[str, Any]:
    """95% bootstrap intervals of both accuracies, resampled by source."""
    from engine.evaluation.metrics import bootstrap_interval

    listed, scheme = source.clips
    groups = [
        listed.clips[number].source for batch in source.proof for number in batch.ids.tolist()
    ]
    named = {"accuracy_interval": logits, "reference_accuracy_interval": source.reference}
    return {
        "clips": f"held out under {scheme}",
        **{
            name: bootstrap_interval(logits_NC.argmax(axis=1) == source.labels, groups)
            for name, logits_NC in named.items()
        },
    }


def copy(folder: Path, out: Path) -> None:
    """Copy a finished artifact, with hard links where possible."""
    for path in folder.iterdir():
        try:
            (out / path.name).hardlink_to(path)
        except OSError:
            shutil.copyfile(path, out / path.name)


def compile_run(
    request: CompileRequest, out: Path, *, log: Callable[[str], None]
) -> ArtifactConfig:
    """Build an artifact, check its parity and write it to `out`.

    Where the backend wasn't asked for and can't compile the model, the next one is tried.

    Raises:
        CompileError: The backend can't compile the model.
        RefusedError: The parity check failed; nothing is written.
    """
    gpu = prepare(out)
    failed: set[str] = set()
    while True:
        try:
            return cached(request, gpu, out, log)
        except CompileError as error:
            failed.add(request.backend)
            if not request.is_auto or request.backend == "eager":
                raise
            log(str(error))
            request = after_failure(request, failed, gpu, log)


def prepare(out: Path) -> Gpu | None:
    """Check that `out` is new, prepare this process for a build, and return the GPU."""
    atomic.require_new(out)
    gpu = this_gpu()
    if gpu is None:
        keep_freed_memory()
    return gpu


def cached(
    request: CompileRequest, gpu: Gpu | None, out: Path, log: Callable[[str], None]
) -> ArtifactConfig:
    """Write the artifact to `out`, from the cache if it was built before.

    A file lock keeps two processes from building the same artifact at the same time.
    """
    from filelock import FileLock

    folder = request.cache or user_cache() / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    source = CompileSource(dataclasses.replace(request, cache=folder))
    finished = folder / key_of(request, source)
    with FileLock(finished.with_suffix(".lock")):
        config = _cached_config(finished)
        if config is not None:
            log(f"using the cached build with the same weights, clips and libraries: {finished}")
        else:
            shutil.rmtree(finished, ignore_errors=True)
            _require_disk_space(folder, source)
            with atomic.new_folder(finished) as stage:
                config = build(request, source, stage, gpu, log)
                _keep_proof(source, stage)
                _keep_clips(source, stage)
                config = artifact.seal(stage, config)
        with atomic.new_folder(out) as stage:
            copy(finished, stage)
    return config


def _require_disk_space(folder: Path, source: CompileSource) -> None:
    """Raise before a build: compilers don't report a full disk, and some crash the process."""
    needed = 2 * (source.checkpoint / "model.safetensors").stat().st_size + PROOF_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RefusedError(
            f"{folder} has {free / 2**20:,.0f} MiB left, but a build takes about "
            f"{needed / 2**20:,.0f}: free some space, or name another `cache`."
        )


def _cached_config(finished: Path) -> ArtifactConfig | None:
    """The config of a cached artifact; None if it is missing or damaged."""
    if not finished.is_dir():
        return None
    try:
        return artifact.check(finished)
    except CompileError:
        return None


def _keep_clips(source: CompileSource, stage: Path) -> None:
    """Store the manifest of held-out clips, so that the artifact can be evaluated like its run."""
    listed, scheme = source.clips
    dataclasses.replace(listed, root=stage).save()
    facts = {"data": str(listed.root.absolute()), "scheme": scheme}
    (stage / "run.json").write_text(json.dumps(facts, indent=2) + "\n")
