"""The steps of `engine bench` for each stage: read clips, measure, print, save."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from engine.errors import RefusedError, UserError, unknown_name
from engine.file_names import short_names
from engine.progress import progress_bar


def sizes(text: str) -> list[int]:
    """Parse batch sizes such as "1,8"."""
    numbers = [number.strip() for number in text.split(",")]
    if not all(number.isdigit() and int(number) for number in numbers):
        raise UserError(f"--batches takes numbers as in 1,8, not {text!r}.")
    return [int(number) for number in numbers]


def loader(
    data: Path | None, frames: int, size: int, batch_size: int, repeats: int
) -> dict[str, Any]:
    import torch

    from benchmarks.machine import fingerprint, peaks
    from benchmarks.stages import loader as suite
    from benchmarks.tables import print_loader
    from dali_pipelines.spec import ClipSpec
    from engine.data import manifest, synthetic
    from engine.data.samples import samples_of

    with tempfile.TemporaryDirectory(prefix="engine-bench-") as folder:
        root = data or Path(folder) / "synthetic"
        if data is None:
            synthetic.make_dataset(root, num_classes=8, clips_per_class=25, seed=0)
        rows, num_bad = samples_of(manifest.load(root))
        if num_bad:
            print(f"{num_bad:,} bad clips left out")
        gpu = 0 if torch.cuda.is_available() else None
        spec = ClipSpec(num_frames=frames, crop=size, resize=round(size * 256 / 224))
        steps = suite.num_steps(repeats, gpu)
        with progress_bar("Measuring", total=steps, unit="epochs") as advance:
            measured = suite.measure(
                rows, spec, batch_size=batch_size, repeats=repeats, gpu=gpu, on_done=advance
            )
    print_loader(measured)
    _print_notes(measured)
    return {
        "stage": "loader",
        "protocol": _protocol(suite),
        **fingerprint(),
        **peaks(),
        "spec": spec.to_dict(),
        "data": "200 synthetic clips" if data is None else data.name,
        **measured,
    }


def model(runs: list[Path], batches: list[int], repeats: int) -> dict[str, Any]:
    from benchmarks.machine import copy_peak, fingerprint
    from benchmarks.stages import model as suite
    from benchmarks.tables import print_model
    from engine.predictor import is_artifact

    if not runs or is_artifact(runs[0]) or not all(map(is_artifact, runs[1:])):
        raise UserError(
            "--stage model takes a run, then the artifacts compiled from it: "
            "engine bench RUN ARTIFACT --stage model."
        )
    steps = suite.num_steps(len(runs) - 1, len(batches), repeats)
    with progress_bar("Measuring", total=steps, unit="steps") as advance:
        measured = suite.measure(
            runs[0], runs[1:], batches=batches, repeats=repeats, on_done=advance
        )
    print_model(measured)
    return {
        "stage": "model",
        "protocol": _protocol(suite),
        **fingerprint(),
        "copy_peak_gb_s": copy_peak(),
        **measured,
    }


def end_to_end(
    runs: list[Path],
    data: Path | None,
    split: Any,
    *,
    against: str | None,
    views: str,
    batches: str,
    num_clips: int | None,
    repeats: int,
    seconds: float,
) -> dict[str, Any]:
    import random

    from benchmarks.baselines import BASELINES
    from benchmarks.machine import fingerprint, peaks
    from benchmarks.stages import end_to_end as suite
    from benchmarks.tables import print_end_to_end
    from engine.data.samples import samples_of
    from engine.evaluation.clips import find_clips, parse_views
    from engine.predictor import class_names_of, is_artifact

    baselines = [name.strip() for name in against.split(",")] if against else []
    for name in baselines:
        if name not in BASELINES:
            raise unknown_name("baseline", name, list(BASELINES))
    if not runs:
        raise UserError("--stage end-to-end takes runs or artifacts: engine bench RUN ARTIFACT.")
    if baselines and all(map(is_artifact, runs)):
        raise UserError("--against takes the weights of a run: name the run, too.")
    clips_of_runs = [find_clips(run, data, class_names_of(run)) for run in runs]
    listed, scheme, _ = clips_of_runs[0]
    if any(clips.listed.clips != listed.clips for clips in clips_of_runs):
        raise UserError(
            "the runs have different held-out clips: pass --data with one dataset for all runs."
        )
    rows, num_bad = samples_of(listed, split)
    if num_bad:
        print(f"{num_bad:,} bad clips left out")
    random.Random(0).shuffle(rows)
    rows = rows[:num_clips]
    candidates = suite.candidates_of(
        runs, batches=sizes(batches), views=[parse_views(part) for part in views.split(",")],
        against=baselines,
    )  # fmt: skip
    measured = suite.measure(
        candidates,
        rows,
        {number: clip.source for number, clip in enumerate(listed.clips)},
        repeats=repeats,
        seconds=seconds,
        on_work=lambda title, total: progress_bar(title, total=total, unit="steps"),
    )
    print_end_to_end(measured)
    _print_notes(measured)
    return {
        "stage": "end-to-end",
        "protocol": _protocol(suite),
        **fingerprint(),
        **peaks(),
        "data": listed.root.name,
        "split": f"{split} split, {scheme}",
        **measured,
    }


def advise(
    result: dict[str, Any], runs: list[Path], target: float | None, max_drop: float | None
) -> None:
    """Print the configuration that fits the budget, and the commands to use it.

    Raises:
        RefusedError: No configuration fits.
    """
    from benchmarks.budget import pick

    ours = [row for row in result["rows"] if row.get("kind") == "ours" and "error" not in row]
    picked = pick(ours, target_clips_per_s=target, max_drop=max_drop)
    if picked is None:
        fastest = max(ours, key=lambda row: row["clips_per_s"])
        raise RefusedError(
            f"no measured configuration fits that budget; the fastest, {fastest['name']}, reaches "
            f"{fastest['clips_per_s']:,.1f} clips/s at {fastest['top1']:.1%}. Try a lower "
            "--precision, fewer frames, or a smaller model."
        )
    print(
        f"within the budget: {picked['name']} with batches of {picked['batch']} and views "
        f"{picked['views']}: {picked['clips_per_s']:,.1f} clips/s, top-1 {picked['top1']:.1%}"
    )
    path_of = short_names(runs)
    path = path_of[picked["name"]]
    if picked["backend"] != "eager":
        run = next((path_of[row["name"]] for row in ours if row["backend"] == "eager"), "RUN")
        print(
            f"  engine compile {run} --backend {picked['backend']} --precision "
            f"{picked['precision']} --out {path}"
        )
    print(f"  engine label FOLDER --model {path} --batch-size {picked['batch']}")


def compare(paths: list[Path]) -> int:
    """Compare two results; returns exit code 3 if something became worse."""
    from benchmarks import comparison
    from benchmarks.tables import print_comparison

    if len(paths) != 2:
        raise UserError("compare takes two results: engine bench compare before.json after.json.")
    before, after = map(_read, paths)
    if before["stage"] != after["stage"]:
        raise UserError(f"{paths[0]} and {paths[1]} are of different stages.")
    if before["machine"]["cpu"] != after["machine"]["cpu"]:
        print("the two were measured on different machines")
    changes, alone = comparison.compare(before, after)
    print_comparison(changes, alone)
    worse = [change.name for change in changes if change.is_regression]
    print(f"worse: {'; '.join(worse)}" if worse else "nothing became worse beyond noise")
    return RefusedError.exit_code if worse else 0


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text())
        result["stage"], result["rows"], result["machine"]["cpu"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a result of `engine bench`.") from error
    return result


def save(result: dict[str, Any], out: Path) -> list[Path]:
    """Write a result and its report to `out`; returns the written files."""
    from benchmarks import report
    from benchmarks.machine import file_name
    from engine import atomic

    path = out / file_name(result["stage"].replace("-", "_"), result)
    with atomic.new_text(path) as file:
        json.dump(result, file, indent=2)
        file.write("\n")
    if result["stage"] != "end-to-end":
        return [path]
    return [path, *report.write(result, path)]


def _print_notes(measured: dict[str, Any]) -> None:
    """Print what makes a pipeline slower on this machine than elsewhere."""
    notes = [f"{row['name']}: {row['note']}" for row in measured["rows"] if row.get("note")]
    for line in dict.fromkeys(notes):
        print(line, file=sys.stderr)


def _protocol(suite: Any) -> str:
    return " ".join((suite.__doc__ or "").split())
