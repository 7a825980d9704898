"""Selects the clips on which a trained model is evaluated: those that its run didn't train on."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engine.errors import UserError

if TYPE_CHECKING:
    from engine.data.manifest import Clip, Manifest


def parse_views(text: str) -> tuple[int, int]:
    """Parse the number of clips and crops of each video from a text like `10x3`."""
    clips, _, crops = text.strip().partition("x")
    if not clips.isdigit() or not crops.isdigit() or int(clips) < 1 or crops not in ("1", "3"):
        raise UserError(f"`views` takes CLIPSxCROPS with 1 or 3 crops, as in 10x3, not {text!r}.")
    return int(clips), int(crops)


class EvaluationClips(NamedTuple):
    """A dataset and how it is split."""

    listed: "Manifest"
    scheme: str
    """Description of the scheme that split the clips."""
    are_own: bool
    """Whether this is the dataset of the run, with the run's own splits."""


def find_clips(path: Path, data: Path | None, learned: list[str]) -> EvaluationClips:
    """The clips to evaluate a run or checkpoint on.

    If `data` is the run's dataset, the splits are those that the run was trained with.

    Args:
        path: The run or checkpoint.
        data: A dataset's folder; None for the run's dataset.
        learned: Classes of the model.

    Raises:
        UserError: There is no dataset, or its classes are not the model's.
    """
    clips = _load_clips(path, data)
    listed = clips.listed
    if listed.class_names != learned:
        raise UserError(
            f"{listed.root} doesn't have the classes that {path} was trained on: "
            f"{_describe_difference(listed.class_names, learned)}."
        )
    return clips


def _load_clips(path: Path, data: Path | None) -> EvaluationClips:
    import dataclasses

    from engine.data import manifest, splits
    from engine.training import run_folder

    folder = path if (path / run_folder.FACTS).is_file() else path.parent.parent
    if not (folder / run_folder.FACTS).is_file():
        if data is None:
            raise UserError(f"{path} is not the folder of a run: pass `data` with a dataset.")
        listed = manifest.load(data)
        return EvaluationClips(listed, splits.current(listed), are_own=False)
    facts = run_folder.read_facts(folder)
    root = data or Path(facts.data)
    own = dataclasses.replace(manifest.load(folder), root=root)
    if data is not None:
        listed = manifest.load(data)
        if not set(map(_identity, own.clips)) <= set(map(_identity, listed.clips)):
            scheme = f"{splits.current(listed)}, of other clips than the run's"
            return EvaluationClips(listed, scheme, are_own=False)
    return EvaluationClips(own, facts.scheme, are_own=True)


def _identity(clip: "Clip") -> tuple[object, ...]:
    """Identifies a clip in a copy of its dataset."""
    return clip.path, clip.label, clip.frames, clip.width, clip.height


def _describe_difference(present: list[str], learned: list[str]) -> str:
    missing = sorted(set(learned) - set(present))
    added = sorted(set(present) - set(learned))
    parts = [f"it lacks {', '.join(missing[:5])}"] if missing else []
    return "; ".join(parts + ([f"it adds {', '.join(added[:5])}"] if added else []))
