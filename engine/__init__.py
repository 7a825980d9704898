"""Video action recognition: train, compile, run.

    import engine

    model = engine.load("run")
    print(model.predict("clip.avi"))

docs/python.md shows the rest. Names are imported when they are first used, so that `import engine`
costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dali_pipelines.errors import EngineError, VideoError
    from dali_pipelines.spec import ClipSpec
    from engine.api import (
        clip_spec,
        compile,
        create_model,
        evaluate,
        list_models,
        load,
        make_loader,
        train,
    )
    from engine.cross_validation import evaluate_folds, train_folds
    from engine.errors import RefusedError, UserError
    from engine.frames import read_frames
    from engine.prediction import Prediction
    from engine.predictor import Predictor
    from engine.progress import enable_progress_bars
    from engine.watching.watch import StreamPrediction

_HOMES = {
    "ClipSpec": "dali_pipelines.spec",
    "EngineError": "dali_pipelines.errors",
    "Prediction": "engine.prediction",
    "Predictor": "engine.predictor",
    "RefusedError": "engine.errors",
    "StreamPrediction": "engine.watching.watch",
    "UserError": "engine.errors",
    "VideoError": "dali_pipelines.errors",
    "clip_spec": "engine.api",
    "compile": "engine.api",
    "create_model": "engine.api",
    "enable_progress_bars": "engine.progress",
    "evaluate": "engine.api",
    "evaluate_folds": "engine.cross_validation",
    "list_models": "engine.api",
    "load": "engine.api",
    "make_loader": "engine.api",
    "read_frames": "engine.frames",
    "train": "engine.api",
    "train_folds": "engine.cross_validation",
}
"""Where a public name is defined."""

__all__ = [
    "ClipSpec",
    "EngineError",
    "Prediction",
    "Predictor",
    "RefusedError",
    "StreamPrediction",
    "UserError",
    "VideoError",
    "__version__",
    "clip_spec",
    "compile",
    "create_model",
    "enable_progress_bars",
    "evaluate",
    "evaluate_folds",
    "list_models",
    "load",
    "make_loader",
    "read_frames",
    "train",
    "train_folds",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "__version__":
        from importlib.metadata import version

        return version("engine")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
