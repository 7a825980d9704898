"""What int8 needs before a compiler can have it: NNCF, and clips to measure ranges on."""

import logging
from typing import TYPE_CHECKING, Any

from trt.build_input import BuildInput
from trt.errors import CompileError
from trt.probe import install_command

if TYPE_CHECKING:
    import torch


def nncf_and_clips(inputs: BuildInput) -> "tuple[Any, list[torch.Tensor]]":
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it looks for CUDA
    try:
        import nncf
    except ImportError as error:
        raise CompileError(f"int8 needs NNCF: {install_command('openvino')}.") from error
    if inputs.calibration is None:
        raise CompileError("int8 is calibrated on training clips: pass --data with a dataset.")
    inputs.on_step("measuring ranges")
    nncf.set_log_level(logging.ERROR)
    return nncf, list(inputs.calibration())
