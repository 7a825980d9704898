"""What people use today, each with the same weights and clips as ours: `engine bench --against`.

Each is set up as its own documentation tells people to. Their libraries are no dependency of ours:
what isn't installed is a row that says so.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Baseline:
    words: str
    packages: tuple[str, ...] = ()
    """What must be installed besides engine, by the name under which pip knows it."""


BASELINES: dict[str, Baseline] = {
    "hf": Baseline(words='transformers\' pipeline("video-classification")'),
    "torch": Baseline(words="PyAV decoding every frame, torchvision, DataLoader, eager PyTorch"),
    "torch-compile": Baseline(words="the same with torch.compile"),
    "onnxruntime": Baseline(words="the same with onnxruntime", packages=("onnxruntime", "onnx")),
    "torchcodec": Baseline(words="the same with torchcodec decoding", packages=("torchcodec",)),
    "decord": Baseline(words="the same with decord decoding", packages=("decord",)),
}


def lacks(name: str) -> str | None:
    """Why a peer can't be run here, and what mends it; a decoder is tried, since torchcodec can be
    imported without the libraries that it needs."""
    from importlib.util import find_spec

    from benchmarks.baselines import frame_readers

    for package in BASELINES[name].packages:
        if find_spec(package) is None:
            return f"{package} isn't installed: pip install {package}"
    reader = frame_readers.READERS.get(name)
    return frame_readers.lacks(reader) if reader else None
