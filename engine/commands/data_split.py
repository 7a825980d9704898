"""`engine data split`: divide a dataset into train, val and test, or into folds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from engine.data.folds import Folds
    from engine.data.manifest import Manifest


def split(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the dataset.")],
    scheme: Annotated[
        str, typer.Option(help="official, stratified, grouped, hmdb-simp or leave-one-source-out; "
                               "grouped keeps all clips of a source in one split.")
    ],
    fold: Annotated[int, typer.Option(help="Number of the official split, 1 to 3.")] = 1,
    folds: Annotated[
        int | None,
        typer.Option(help="Cross-validation: divide a grouped dataset into this many folds, which "
                          "test each clip once."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
) -> None:  # fmt: skip
    """Assign each clip to train, val or test; written to manifest.csv and to splits/.

    With --folds, sources are divided into folds of equal size and similar classes. Each fold tests
    its own sources, validates on sources of the next fold (about a tenth of the other clips), and
    trains on the rest. leave-one-source-out has one fold for each source. manifest.csv gets fold 1.

    Example: [bold]engine data split my_videos --scheme grouped[/bold]

    Example: [bold]engine data split my_videos --scheme grouped --folds 5[/bold]
    """
    from engine.data import folds as folding
    from engine.data import manifest, splits
    from engine.errors import UserError, unknown_name

    if scheme not in {*splits.SCHEMES, *folding.SCHEMES}:
        raise unknown_name("scheme", scheme, [*splits.SCHEMES, folding.LEAVE_ONE_OUT])
    if fold != 1 and scheme != "official":
        raise UserError("--fold only goes with --scheme official: leave it out.")
    if folds is not None and scheme not in folding.SCHEMES:
        raise UserError("--folds only goes with --scheme grouped: leave it out.")
    if folds is not None or scheme == folding.LEAVE_ONE_OUT:
        _print_folds(folding.apply(manifest.load(root), scheme, num_folds=folds, seed=seed))
        return
    settings = {"seed": seed} | ({"fold": fold} if scheme == "official" else {})
    _print_split(splits.apply(manifest.load(root), splits.SCHEMES[scheme](**settings)))


def _print_split(dataset: "Manifest") -> None:
    from engine.data import splits
    from engine.data.validate import usable_clips

    print(
        f"{dataset.root}: {splits.current(dataset)}: {_counts(dataset)}, from "
        f"{usable_clips(dataset).describe()}"
    )
    for label in dataset.class_names:
        present = {clip.split for clip in dataset.clips if clip.label == label}
        if lacking := [part for part in splits.PARTS if part not in present and present != {""}]:
            print(f"note: {label} has too few clips or sources for one in {' and '.join(lacking)}")
    print(f"next: engine data audit {dataset.root}")


def _print_folds(folds: "Folds") -> None:
    from engine.data.validate import usable_clips

    root, numbers = folds.manifest.root, folds.numbers(None)
    print(
        f"{root}: {folds.scheme}, {len(folds)} folds, seed {folds.seed}, from "
        f"{usable_clips(folds.manifest).describe()}"
    )
    untrained: dict[str, list[str]] = {}
    for number in numbers:
        dataset = folds.fold(number)
        print(f"fold {number}: {_counts(dataset)} from {_tested_sources(dataset)}")
        classes = {part: _classes(dataset, part) for part in ("train", "test")}
        for label in sorted(classes["test"] - classes["train"]):
            untrained.setdefault(label, []).append(str(number))
    for label, where in untrained.items():
        print(
            f"note: {label} has too few sources: it is tested but not trained in fold "
            f"{', '.join(where)}"
        )
    print(f"next: engine train --data {root} --folds all --model cnn-lstm --out folds")


def _counts(dataset: "Manifest") -> str:
    counts = dataset.split_counts()
    unused = f", {counts['']:,} unused" if counts[""] else ""
    return f"{counts['train']:,} train, {counts['val']:,} val, {counts['test']:,} test{unused}"


def _tested_sources(dataset: "Manifest") -> str:
    names = sorted({clip.source for clip in dataset.clips if clip.split == "test"})
    return ", ".join(names) if len(names) <= 3 else f"{len(names):,} sources"


def _classes(dataset: "Manifest", part: str) -> set[str]:
    return {clip.label for clip in dataset.clips if clip.split == part}
