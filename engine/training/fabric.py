"""Sets up Lightning Fabric: devices, processes and precision."""

import logging
import os
from typing import TYPE_CHECKING, Any

from engine.errors import RefusedError, unknown_name

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric

    from engine.training.recipe import Precision

DEVICES = ("auto", "gpu", "cpu")
PRECISIONS: dict[str, Any] = {
    "fp32": "32-true",
    "tf32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


def is_first_process() -> bool:
    """True in the process that logs and saves; works before the process group exists, too."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def choose_device(device: str) -> "torch.device":
    """The device for `auto`, `gpu` or `cpu`; a GPU with its index, which DALI and NVDEC need.

    Raises:
        UserError: The name is unknown.
        RefusedError: There is no GPU.
    """
    import torch

    if device not in DEVICES:
        raise unknown_name("device", device, list(DEVICES))
    with_gpu = torch.cuda.is_available() if device == "auto" else device == "gpu"
    if not with_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RefusedError("torch finds no NVIDIA GPU here: pass `device='cpu'`.")
    return torch.device("cuda", torch.cuda.current_device())


def _ddp(with_gpu: bool) -> Any:
    """Several processes; small facts are exchanged on the CPU, so that no GPU is waited for."""
    from lightning_fabric.strategies import DDPStrategy

    return DDPStrategy(process_group_backend="cpu:gloo,cuda:nccl" if with_gpu else "gloo")


def make_fabric(
    device: str, num_devices: int, num_nodes: int, precision: "Precision"
) -> "tuple[Fabric, Precision]":
    """Create Fabric, and resolve the precision `auto`.

    Args:
        device: `auto`, `gpu` or `cpu`.
        num_devices: Devices of each node.
        num_nodes: Number of machines.
        precision: `auto` is bf16 on a GPU that supports it, otherwise fp32.

    Raises:
        UserError: The device is unknown.
        RefusedError: There is no GPU, or the device doesn't support the precision.
    """
    import torch
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it repeats our settings
    with_gpu = choose_device(device).type == "cuda"
    if precision == "auto":
        has_bf16 = with_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if has_bf16 else "fp32"
    if precision in ("fp16", "tf32") and not with_gpu:
        raise RefusedError(
            f"{precision} can't be trained on a CPU: pass `precision='bf16'` or `precision='fp32'`."
        )
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun has started the processes already
        num_devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // num_devices
    fabric = Fabric(
        accelerator="cuda" if with_gpu else "cpu",
        devices=num_devices,
        num_nodes=num_nodes,
        strategy=_ddp(with_gpu) if num_devices * num_nodes > 1 else "auto",
        precision=PRECISIONS[precision],
    )
    return fabric, precision
