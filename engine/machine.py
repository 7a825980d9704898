"""Describes this machine: processor, memory, GPU, and the versions of libraries."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dali_pipelines.cores import num_cores
from trt.probe import Gpu, this_cpu, this_gpu

SPEED_FLAGS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI (int8)",
    "avx512_bf16": "bf16",
    "amx_tile": "AMX",
}
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
LIBRARIES = ("torch", "torchvision", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "av", "timm",
             "transformers", "openvino", "torch-tensorrt", "torch-tensorrt-rtx")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Machine:
    python: str
    system: str
    cpu: str
    num_cores: int
    cpu_extras: list[str]
    memory_gib: float
    gpu: Gpu | None
    gpu_memory_gib: float
    cuda: str
    """CUDA and driver version, or the reason why there is no GPU."""
    libraries: dict[str, str]


def describe_machine() -> Machine:
    model, flags = this_cpu()
    gpu, gpu_memory_gib, cuda = _gpu()
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpu=model,
        num_cores=num_cores(),
        cpu_extras=[name for flag, name in SPEED_FLAGS.items() if flag in flags],
        memory_gib=round(_physical_memory() / 2**30, 1),
        gpu=gpu,
        gpu_memory_gib=gpu_memory_gib,
        cuda=cuda,
        libraries=_versions(),
    )


def memory_limit() -> int:
    """Memory in bytes that this process may use: of the machine, or of its container if less."""
    limits = [_physical_memory()]
    for path in CONTAINER_LIMITS:
        text = path.read_text().strip() if path.is_file() else ""
        limits += [int(text)] if text.isdigit() else []  # "max" means no limit
    return min(limits)


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gpu() -> tuple[Gpu | None, float, str]:
    import torch

    if torch.version.cuda is None:
        return None, 0.0, "this torch was built without CUDA"
    if not torch.cuda.is_available():
        driver = Path("/proc/driver/nvidia/version").is_file()
        return None, 0.0, "driver found, but no usable GPU" if driver else "no NVIDIA driver"
    memory = torch.cuda.get_device_properties(0).total_memory
    return this_gpu(), round(memory / 2**30, 1), f"CUDA {torch.version.cuda}, {_driver()}"


def _driver() -> str:
    path = Path("/proc/driver/nvidia/version")
    words = path.read_text().splitlines()[0].split() if path.is_file() else []
    numbers = [word for word in words if word[:1].isdigit() and "." in word]
    return f"driver {numbers[0]}" if numbers else "driver unknown"


def _versions() -> dict[str, str]:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
