"""Plain PyTorch: a Dataset that decodes, torchvision, a DataLoader and the model, fp32, NCHW.

Other baselines change one thing: the compiler (`torch-compile`, `onnxruntime`) or the decoder
(`torchcodec`, `decord`). There are as many workers as cores.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.baselines.frame_readers import READERS, lacks
from benchmarks.pipeline import ClipAnswer, Setting, labelled
from benchmarks.stages.model import channels_first
from dali_pipelines.decode.pixels import Frame
from dali_pipelines.errors import VideoError
from dali_pipelines.frame_plan import IntArray
from dali_pipelines.loaders.loader_config import Sample
from dali_pipelines.loaders.torch_loader import Decode, TorchLoader
from engine.errors import UserError
from engine.predictor import find_checkpoint
from engine.training import checkpoint

if TYPE_CHECKING:
    from dali_pipelines.spec import ClipSpec
    from trt.build_input import Run


class PlainTorch:
    def __init__(self, run: Path, kind: str) -> None:
        if kind in DECODERS and (reason := lacks(READERS[kind])):
            raise UserError(reason)
        model, config = checkpoint.load_model(find_checkpoint(run)[0])
        self._clip = config.clip
        self._decode = DECODERS.get(kind)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.note = ""
        self._run: Run
        if kind == "onnxruntime":
            self._run = _in_onnxruntime(model.eval(), config.clip)
            return
        self._run = channels_first(model.eval()).to(self._device)
        if kind == "torch-compile":
            self._run = torch.compile(self._run)

    def label(
        self, rows: list[Sample], setting: Setting, *, num_workers: int | None = None
    ) -> Iterator[ClipAnswer]:
        loader_config = setting.loader_config(self._clip, "float32")
        loader = TorchLoader(rows, loader_config, num_workers=num_workers, decode=self._decode)
        self.note = loader.note
        return labelled(self._answer, loader)

    def one(self, row: Sample) -> Any:
        answer = next(self.label([row], Setting(batch=1), num_workers=0), None)
        if answer is None:
            raise VideoError(row.path, "the baseline can't read it")
        return answer.probabilities

    def _answer(self, clips: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self._run(clips.to(self._device))


def _in_onnxruntime(model: torch.nn.Module, clip: "ClipSpec") -> "Run":
    """Export as PyTorch's documentation recommends, and run with default options."""
    import onnxruntime

    example = torch.zeros(2, *clip.shape)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            model, (example,), path, input_names=["clips"], dynamo=True, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=256)},),
        )  # fmt: skip
        providers = onnxruntime.get_available_providers()
        session = onnxruntime.InferenceSession(path, providers=providers)

    def run(clips: torch.Tensor) -> torch.Tensor:
        (logits,) = session.run(None, {"clips": clips.cpu().numpy()})
        return torch.from_numpy(logits)

    return run


def _by_torchcodec(row: Sample, numbers: IntArray) -> list[Frame]:
    from torchcodec.decoders import VideoDecoder

    try:
        decoder = VideoDecoder(str(row.path), dimension_order="NHWC", num_ffmpeg_threads=1)
        return list(decoder.get_frames_at(numbers.tolist()).data.numpy())
    except RuntimeError as error:  # it can't reach the last frame of some MPEG-4 files
        raise VideoError(row.path, str(error).splitlines()[-1]) from error


def _by_decord(row: Sample, numbers: IntArray) -> list[Frame]:
    from decord import VideoReader

    reader = VideoReader(str(row.path), num_threads=1)
    return list(reader.get_batch(numbers.tolist()).asnumpy())


DECODERS: dict[str, Decode] = {"torchcodec": _by_torchcodec, "decord": _by_decord}
