"""On which clips a trained model is tested: those that its run held back."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engine.errors import UserError

if TYPE_CHECKING:
    from engine.data.manifest import Clip, Manifest


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
    """Whether they are those that the run learned from, under its own splits."""


def find_clips(path: Path, data: Path | None, learned: list[str]) -> FoundClips:
    """The dataset, of the classes that were learned: with the run's own splits where it is the one
    that the run learned from."""
    found = _listed(path, data)
    listed = found.listed
    if listed.class_names != learned:
        raise UserError(
            f"{listed.root} has other classes than {path} learned: "
            f"{_differing(listed.class_names, learned)}."
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
    root = data or Path(facts.data)
    own = dataclasses.replace(manifest.load(folder), root=root)
    if data is not None:
        listed = manifest.load(data)
        if not set(map(_look_of, own.clips)) <= set(map(_look_of, listed.clips)):
            scheme = f"{splits.current(listed)}, of other clips than the run's"
            return FoundClips(listed, scheme, are_own=False)
    return FoundClips(own, facts.scheme, are_own=True)


def _look_of(clip: "Clip") -> tuple[object, ...]:
    """By which a clip is known again where its dataset lies elsewhere."""
    return clip.path, clip.label, clip.frames, clip.width, clip.height


def _differing(found: list[str], learned: list[str]) -> str:
    lacking = sorted(set(learned) - set(found))
    more = sorted(set(found) - set(learned))
    parts = [f"it lacks {', '.join(lacking[:5])}"] if lacking else []
    return "; ".join(parts + ([f"it adds {', '.join(more[:5])}"] if more else []))
