"""What commands open by path: a run, a checkpoint or an artifact, as one kind of predictor.

This is where checkpoints (engine) and artifacts (trt) become the same thing.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dali_pipelines.spec import ClipSpec
from engine.errors import UserError

if TYPE_CHECKING:
    import torch

    from engine.data.manifest import Clip, Manifest
    from trt.config import Config
    from trt.program import BytesIn


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Bytes in, logits out: (B, T, C, H, W) of uint8, as `Feed(values="uint8")` gives them."""

    path: Path
    chosen_by: str
    """Which figure of which part chose the weights."""
    clip: ClipSpec
    class_names: list[str]
    device: "torch.device"
    runs_on: str
    """Device, compiler and precision, in words."""
    run: "Callable[[torch.Tensor], torch.Tensor]"

    def __call__(self, clips: "torch.Tensor") -> "torch.Tensor":
        """The logits lie where the model ran."""
        import torch

        if self.device.type == "cuda" and clips.device.type == "cpu":
            clips = clips.pin_memory().to(self.device, non_blocking=True)
        with torch.no_grad():
            return self.run(clips)

    def warm_up(self, batch_size: int) -> None:
        """The first call of a compiler pays for what later ones use."""
        import torch

        spec = self.clip
        self(torch.zeros(batch_size, *shape_of(spec), dtype=torch.uint8))


def open_predictor(path: Path, device: str = "auto") -> Predictor:
    """A run's best checkpoint, a checkpoint, or an artifact."""
    return _artifact(path, device) if is_artifact(path) else _checkpoint(path, device)


def is_artifact(path: Path) -> bool:
    config = path / "config.json"
    try:
        found = json.loads(config.read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "backend" in found


def shape_of(spec: ClipSpec) -> tuple[int, int, int, int]:
    """Of one clip."""
    frames, side = spec.num_frames, spec.crop
    return (frames, 3, side, side) if spec.layout == "TCHW" else (3, frames, side, side)


def find_checkpoint(path: Path) -> tuple[Path, str]:
    """The best of a run's folder, or one that is named itself; and who chose it."""
    from engine.training import checkpoint

    best = checkpoint.named_or_best(path)
    if best == path:
        return path, "named by hand"
    if best is not None:
        return best, f"{checkpoint.read_best(path)['metric']} of the val part"
    last = checkpoint.last_of(path)
    if last is None:
        raise UserError(
            f"{path} holds no checkpoint and is no artifact; train one with "
            f"`engine train --out {path}`."
        )
    return last, "the last, no epoch was finished"


def class_names_of(path: Path) -> list[str]:
    """Of a run, a checkpoint or an artifact, without its weights."""
    from engine.training import checkpoint
    from trt.config import Config

    if is_artifact(path):
        return Config.read(path).class_names
    return checkpoint.load_config(find_checkpoint(path)[0]).class_names


def digest_of(path: Path) -> str:
    """Of what answers: the same only where the answers are."""
    from trt import artifact
    from trt.config import CONFIG

    if is_artifact(path):
        return artifact.digest(path / CONFIG)
    return artifact.digest(find_checkpoint(path)[0] / "model.safetensors")


def parse_views(text: str) -> tuple[int, int]:
    """Looks at a video, in time and crops, from words like 10x3."""
    clips, _, crops = text.strip().partition("x")
    if not clips.isdigit() or not crops.isdigit() or int(clips) < 1 or crops not in ("1", "3"):
        raise UserError(f"--views takes CLIPSxCROPS with 1 or 3 crops, as in 10x3, not {text!r}.")
    return int(clips), int(crops)


class FoundClips(NamedTuple):
    listed: "Manifest"
    scheme: str
    """By which the clips were split."""
    are_own: bool
    """Whether they are those that the run learnt from, under its own splits."""


def find_clips(path: Path, data: Path | None, learnt: list[str]) -> FoundClips:
    """The dataset, of the classes that were learnt: with the run's own splits where it is the one
    that the run learnt from."""
    found = _listed(path, data)
    listed = found.listed
    if listed.class_names != learnt:
        raise UserError(
            f"{listed.root} has other classes than {path} learnt: "
            f"{_differing(listed.class_names, learnt)}."
        )
    return found


def _listed(path: Path, data: Path | None) -> FoundClips:
    import dataclasses

    from engine.data import manifest, splits
    from engine.training import run_folder

    folder = path if (path / run_folder.FACTS).is_file() else path.parent.parent
    if not (folder / run_folder.FACTS).is_file():
        if data is None:
            raise UserError(f"{path} is no run's folder: pass --data with a dataset.")
        listed = manifest.load(data)
        return FoundClips(listed, splits.current(listed), are_own=False)
    facts = run_folder.read_facts(folder)
    root = data or Path(facts["data"])
    own = dataclasses.replace(manifest.load(folder), root=root)
    if data is not None:
        listed = manifest.load(data)
        if not set(map(_look_of, own.clips)) <= set(map(_look_of, listed.clips)):
            scheme = f"{splits.current(listed)}, of other clips than the run's"
            return FoundClips(listed, scheme, are_own=False)
    return FoundClips(own, facts["scheme"], are_own=True)


def _look_of(clip: "Clip") -> tuple[object, ...]:
    """By which a clip is known again where its dataset lies elsewhere."""
    return clip.path, clip.label, clip.frames, clip.width, clip.height


def _differing(found: list[str], learnt: list[str]) -> str:
    lacking = sorted(set(learnt) - set(found))
    more = sorted(set(found) - set(learnt))
    parts = [f"it lacks {', '.join(lacking[:5])}"] if lacking else []
    return "; ".join(parts + ([f"it adds {', '.join(more[:5])}"] if more else []))


def as_bytes_in(model: Any, spec: ClipSpec) -> "BytesIn":
    """A trained module behind the normalisation that its clips had in training."""
    from trt.program import BytesIn

    return BytesIn(model, mean=spec.mean, std=spec.std, layout=spec.layout).eval()


def _checkpoint(path: Path, device: str) -> Predictor:
    from engine.training import checkpoint
    from engine.training.fabric import make_fabric

    found, chosen_by = find_checkpoint(path)
    model, config = checkpoint.load_model(found)
    fabric, _ = make_fabric(device, 1, 1, "fp32")
    return Predictor(
        path=found,
        chosen_by=chosen_by,
        clip=config.clip,
        class_names=config.class_names,
        device=fabric.device,
        runs_on=f"{fabric.device.type}, eager, fp32",
        run=as_bytes_in(model, config.clip).to(fabric.device),
    )


def _artifact(path: Path, device: str) -> Predictor:
    import torch

    import trt

    artifact = trt.load(path)
    config: Config = artifact.config
    where = "cuda" if artifact.on_gpu else "cpu"
    if device not in ("auto", {"cuda": "gpu"}.get(where, where)):
        raise UserError(
            f"{path} runs on the {where}: leave --device out, or compile it for {device}."
        )
    return Predictor(
        path=path,
        chosen_by=config.chosen_by,
        clip=ClipSpec.from_dict(config.clip),
        class_names=config.class_names,
        device=torch.device(where),
        runs_on=f"{where}, {config.backend}, {config.target.precision}",
        run=artifact,
    )
