"""Everything that needs a GPU, in parts: `python -m benchmarks.gpu_proof --out DIR`.

decode   the codecs that NVDEC decodes; the frames of every kind of file, by number and by pixels,
         against the CPU; NVDEC against PyAV at three sizes; the tests marked `gpu`; PyAV on many
         cores
train    the time of a training step of each family, eager and compiled, in fp32, tf32 and bf16; a
         whole run with DALI; a run that is killed and resumed
compile  each backend and precision: error, speed, and share of the peak of this GPU
label    from files to labels, beside plain PyTorch and the pipeline of transformers; the labels of
         a folder on the GPU against those on the CPU
devices  training on all GPUs of this machine

Each step runs in a process of its own and is written to gpu_<card>_<month>.json when it is done, so
that a crash costs one step. After `--minutes`, no step is started; the same command then continues.
A step that can't run here is written down with its reason. With `--jobs`, several steps run at a
time: for steps that compare, not for those that measure speed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.gpu_proof import (
    compile_steps,
    core_steps,
    decode_steps,
    device_steps,
    label_steps,
    train_steps,
)
from benchmarks.gpu_proof.step import LAST_LINES, Context, run

PARTS = {
    "decode": decode_steps.STEPS | core_steps.STEPS,
    "train": train_steps.STEPS,
    "compile": compile_steps.STEPS,
    "label": label_steps.STEPS,
    "devices": device_steps.STEPS,
}
STEP_S = 480
"""Longest duration of a step; it is ended then."""
DONE = "value"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_proof",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument(
        "--only", nargs="+", type=_steps_of, metavar="PART[:STEP]", default=[_steps_of(*PARTS)],
        help=f"parts ({', '.join(PARTS)}) or single steps (decode:codecs)",
    )  # fmt: skip
    parser.add_argument("--minutes", type=float, default=8.0, help="start no step after these")
    parser.add_argument("--jobs", type=int, default=1, help="steps at a time; 1 if speeds matter")
    parser.add_argument("--clips", type=Path, action="append", help="folder of real videos, too")
    parser.add_argument("--again", action="store_true", help="also repeat finished steps")
    parser.add_argument(
        "--rehearse", action="store_true",
        help="run every step on the CPU, as small as possible: tests this program, proves nothing",
    )  # fmt: skip
    parser.add_argument("--step", nargs=2, metavar=("PART", "STEP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    context = Context(rehearse=options.rehearse, clips=tuple(options.clips or ()))
    if options.step:
        part, name = options.step
        options.out.write_text(json.dumps(run(PARTS[part][name], context)))
        return
    sys.exit(_run_parts(options, context))


def _steps_of(*names: str) -> list[tuple[str, str]]:
    """The steps that words of `--only` name, as pairs of a part and a step."""
    found = []
    for name in names:
        part, _, step = map(str.strip, name.partition(":"))
        if part not in PARTS or (step and step not in PARTS[part]):
            raise argparse.ArgumentTypeError(f"there is no {name}")
        found += [(part, one) for one in PARTS[part] if step in ("", one)]
    return found


def _run_parts(options: argparse.Namespace, context: Context) -> int:
    """Run the steps that are missing; returns how many failed."""
    ends_at = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"gpu_{_card(context)}_{date.today():%Y%m}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    result["command"] = "python -m benchmarks.gpu_proof"
    writing = threading.Lock()
    left: list[str] = []

    def run_step(part: str, name: str) -> bool:
        """Whether a step failed."""
        if time.monotonic() > ends_at:
            left.append(f"{part}: {name}")
            return False
        print(f"{part}: {name} …", flush=True)
        found = _in_a_process(part, name, context)
        with writing:
            result.setdefault("parts", {}).setdefault(part, {})[name] = found
            print(f"{part}: {name}", json.dumps(found, indent=2), flush=True)
            new = path.with_suffix(".new")
            new.write_text(json.dumps(result, indent=2) + "\n")
            new.replace(path)
        return "error" in found

    done = result.get("parts", {})
    missing = [
        (part, name)
        for steps in options.only
        for part, name in steps
        if options.again or DONE not in done.get(part, {}).get(name, {})
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        num_failed = sum(pool.map(lambda step: run_step(*step), missing))
    if left:
        print(f"time is up before {left[0]}; the same command continues")
    print(f"written to {path}")
    return num_failed


def _in_a_process(part: str, name: str, context: Context) -> dict[str, Any]:
    """Run a step; a crash or a hang is an error of this step alone."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        words = [sys.executable, "-m", "benchmarks.gpu_proof", "--step", part, name]
        words += ["--out", str(out), *(["--rehearse"] if context.rehearse else [])]
        words += [word for clips in context.clips for word in ("--clips", str(clips))]
        try:
            ended = subprocess.run(words, capture_output=True, text=True, timeout=STEP_S)
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {STEP_S} s"}
        seconds = round(time.monotonic() - started, 1)
        if out.is_file():
            return {**json.loads(out.read_text()), "seconds": seconds}
        lines = (ended.stdout + ended.stderr).splitlines()[-LAST_LINES:]
        return {"error": f"exit code {ended.returncode}", "last_lines": lines, "seconds": seconds}


def _card(context: Context) -> str:
    """Name of the GPU for the file name, asked without PyTorch."""
    if context.rehearse:
        return "rehearsal"
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return re.sub(r"[^a-z0-9]", "", names.splitlines()[0].lower())


if __name__ == "__main__":
    main()
