"""Compiles an AOTInductor package, and tries it, in a process of its own.

What a compiler or a package does wrong may end the process that it runs in. Here this is an error
of the build, after which another backend can be chosen, and a package whose CUDA graph can't be
recorded runs without one.

    python -m trt.backends.inductor_process compile|try FOLDER FACTS
"""

import json
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from trt.backends import inductor_package


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the other process needs to know."""

    shape: list[int]
    """Shape of a batch of clips, of the size to optimize for."""
    tf32: bool
    freezing: bool = True
    """Whether the weights are constants, which the compiler may rearrange."""
    cuda_graphs: bool = True


def run(step: Literal["compile", "try"], folder: Path, facts: Facts) -> None:
    """Run a step in another process.

    Raises:
        RuntimeError: It failed, or its process crashed.
    """
    command = [
        sys.executable,
        "-P",  # no module of the current folder hides another
        "-X",
        "faulthandler",
        "-m",
        __name__,
        step,
        str(folder),
        json.dumps(asdict(facts)),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path),
    }
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    if ended.returncode == 0:
        return
    lines = ended.stderr.strip().splitlines() or ["no message"]
    reason = lines[-1]
    if ended.returncode < 0:
        how = "while compiling" if step == "compile" else "while running what was compiled"
        reason = f"its process ended with {signal.Signals(-ended.returncode).name} {how}"
        stack = [line.strip() for line in lines if line.strip().startswith("File ")]
        reason += f", in {stack[0]}" if stack else ""
    raise RuntimeError(reason)


def try_package(folder: Path, facts: Facts) -> None:
    """Open the package and run it with one clip and with the size it was optimized for."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = inductor_package.open_package(folder, tf32=facts.tf32, cuda_graphs=facts.cuda_graphs)
    for size in sorted({1, facts.shape[0]}):
        clips = torch.zeros((size, *facts.shape[1:]), dtype=torch.uint8, device=device)
        for _ in range(2):  # the second run replays what the first has recorded
            model(clips)
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    step, folder, facts = sys.argv[1], Path(sys.argv[2]), Facts(**json.loads(sys.argv[3]))
    try:
        if step == "compile":
            inductor_package.compile_package(
                folder, facts.shape, tf32=facts.tf32, freezing=facts.freezing
            )
        else:
            try_package(folder, facts)
    except Exception as error:
        sys.exit(" ".join(str(error).split()) or type(error).__name__)
