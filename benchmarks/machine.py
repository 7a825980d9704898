"""The fingerprint that every result carries: without it a figure means nothing elsewhere."""

import dataclasses
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

from engine.machine import describe_machine


def fingerprint() -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "machine": dataclasses.asdict(describe_machine()),
    }


def file_name(theme: str, facts: dict[str, Any]) -> str:
    """What results are called: the theme, the machine and the month of a fingerprint."""
    return f"{theme}_{_short_name(facts['machine'])}_{facts['date'][:7].replace('-', '')}.json"


def _short_name(machine: dict[str, Any]) -> str:
    """For file names: the GPU, or the number of cores."""
    gpu = machine["gpu"]
    name = gpu["name"] if gpu else f"cpu{machine['num_cores']}"
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _commit() -> str:
    root = Path(__file__).parents[1]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout.strip() or "unknown"
