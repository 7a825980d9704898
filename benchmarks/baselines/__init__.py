"""Baselines of `engine bench --against`, measured with the same weights and clips.

Each baseline is set up as its documentation recommends. Its packages are optional: if one isn't
installed, the row of results says so.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Baseline:
    words: str
    packages: tuple[str, ...] = ()
    """Required pip packages, besides engine."""


BASELINES: dict[str, Baseline] = {
    "hf": Baseline(words='transformers\' pipeline("video-classification")'),
    "torch": Baseline(words="PyAV decoding every frame, torchvision, DataLoader, eager PyTorch"),
    "torch-compile": Baseline(words="the same with torch.compile"),
    "onnxruntime": Baseline(words="the same with onnxruntime", packages=("onnxruntime", "onnx")),
    "torchcodec": Baseline(words="the same with torchcodec decoding", packages=("torchcodec",)),
    "decord": Baseline(words="the same with decord decoding", packages=("decord",)),
}


def lacks(name: str) -> str | None:
    """Return why a baseline can't be run here, and the fix; None if it can.

    A decoder is tried on a small file, because torchcodec can be imported without its libraries.
    """
    from importlib.util import find_spec

    from benchmarks.baselines import frame_readers

    for package in BASELINES[name].packages:
        if find_spec(package) is None:
            return f"{package} isn't installed: pip install {package}"
    reader = frame_readers.READERS.get(name)
    return frame_readers.lacks(reader) if reader else None
