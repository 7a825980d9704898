"""Probes the device and the installed packages, without slow imports."""

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Status:
    """Whether a backend can be used on this machine."""

    usable: bool
    why: str
    fix: str = ""
    """A command that makes the backend usable; empty if there is none."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Properties of the first NVIDIA GPU."""

    name: str
    capability: tuple[int, int]


def installed(package: str) -> str:
    """Name and version of a package; empty if it is not installed."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


def missing(library: str, extra: str) -> Status:
    return Status(usable=False, why=f"{library} is not installed", fix=install_command(extra))


def install_command(extra: str) -> str:
    """Command that installs an extra of pyproject.toml.

    It installs from a clone, because `engine` on PyPI is a different package.
    """
    return f"pip install -e '.[{extra}]' in the folder of the clone"


def this_device() -> str:
    """Name of the GPU, or the CPU model."""
    gpu = this_gpu()
    if gpu is not None:
        return f"{gpu.name}, compute capability {'.'.join(map(str, gpu.capability))}"
    return this_cpu()[0]


def this_cpu() -> tuple[str, set[str]]:
    """CPU model, and the CPU flags in /proc/cpuinfo."""
    model, flags = platform.processor() or "a CPU", set[str]()
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else []:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
        elif key.strip() == "flags":
            flags = set(value.split())
            break
    return model, flags


def this_gpu() -> Gpu | None:
    import torch

    if not torch.cuda.is_available():
        return None
    facts = torch.cuda.get_device_properties(0)
    return Gpu(name=facts.name, capability=(facts.major, facts.minor))


def user_cache() -> Path:
    """Cache folder of the user."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "engine"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    numbers = {package: installed(package).rpartition(" ")[2] for package in packages}
    return {package: number for package, number in numbers.items() if number}
