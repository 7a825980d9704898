"""Prerequisites of int8 quantization: NNCF and calibration clips."""

import logging
from typing import TYPE_CHECKING, Any

from trt.build_input import BuildInput
from trt.errors import CompileError
from trt.probe import install_command

if TYPE_CHECKING:
    import torch


def not_quantized(inputs: BuildInput) -> list[str]:
    """Names of the modules that aren't quantized: those that stay in fp32 by the target, and those
    that say so themselves with `quantizable = False`."""
    assert inputs.model is not None
    own = (
        name
        for name, module in inputs.model.model.named_modules()
        if not getattr(module, "quantizable", True)
    )
    return [*inputs.target.fp32_layers, *own]


def nncf_and_clips(inputs: BuildInput) -> "tuple[Any, list[torch.Tensor]]":
    """Import NNCF and load the calibration clips.

    Raises:
        CompileError: NNCF is not installed, or there are no calibration clips.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns without CUDA
    try:
        import nncf
    except ImportError as error:
        raise CompileError(f"int8 needs NNCF: {install_command('openvino')}.") from error
    if inputs.calibration is None:
        raise CompileError("int8 is calibrated on training clips: pass `data` with a dataset.")
    inputs.on_step("measuring ranges")
    nncf.set_log_level(logging.ERROR)
    return nncf, list(inputs.calibration())
