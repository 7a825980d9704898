"""`engine label`: labels for whole folders of videos."""

from pathlib import Path
from typing import Annotated

import typer


def label(
    videos: Annotated[
        list[Path],
        typer.Argument(
            metavar="VIDEOS...",
            help="A folder of videos, of any depth; a list of paths with --list, - for standard "
            "input; with --merge, the results of shards.",
        ),
    ],
    model: Annotated[
        Path | None, typer.Option(help="A run, a checkpoint, or an artifact of `engine compile`.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Results: .csv, .jsonl or .parquet.")] = Path(
        "labels.csv"
    ),
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Else by --out: csv, jsonl, parquet, labelstudio, or fiftyone, which wants the "
            "name samples.json.",
        ),
    ] = None,
    is_list: Annotated[
        bool, typer.Option("--list", help="VIDEOS is a file with one path a line.")
    ] = False,
    include: Annotated[
        list[str] | None, typer.Option(help="Only names like this, as in '*/front/*.mp4'.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No names like this.")] = None,
    window: Annotated[
        float | None, typer.Option(help="Seconds of a window that slides over each video.")
    ] = None,
    stride: Annotated[
        float | None, typer.Option(help="Seconds from one window to the next; else --window.")
    ] = None,
    segments: Annotated[
        Path | None, typer.Option(help="CSV of who does what from when to when.")
    ] = None,
    vtt: Annotated[
        Path | None, typer.Option(help="Folder of subtitles, which any player shows.")
    ] = None,
    smooth: Annotated[
        float | None, typer.Option(help="Seconds over which segments are smoothed; 2 × --window.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Best labels of each video to write.")] = 5,
    min_confidence: Annotated[
        float, typer.Option(help="Videos below it are marked for review.")
    ] = 0.0,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on where the last run stood, or forget it.")
    ] = True,
    retry: Annotated[bool, typer.Option(help="Try files again that failed before.")] = False,
    mix: Annotated[
        bool,
        typer.Option(
            help="Go on with another model, folder or filter than before, and keep in the results "
            "all that was ever labelled."
        ),
    ] = False,
    shard: Annotated[
        str | None, typer.Option(help="i/n: this one of n machines, from 1; see --merge.")
    ] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="Join the results of shards, as if of one run; --fresh replaces other labels.",
        ),
    ] = False,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Label on a Ray cluster; extra `cluster`.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --cluster: workers; one for each GPU or node.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on labelling what arrives, until Ctrl-C.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be labelled, and stop.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows in a batch.")] = 8,
    timeout: Annotated[
        float, typer.Option(help="Seconds, from 1 up, after which a silent file is given up.")
    ] = 120.0,
    device: Annotated[str, typer.Option(help="auto, gpu or cpu.")] = "auto",
) -> None:
    """Label a folder of videos; stop or kill it at will, run it again to go on.

    What was labelled is kept beside the results after every batch: nothing is
    lost, and nothing is done twice. Files that can't be read are named in
    failures-labels.csv, named after --out, and the exit code is 1. The results
    hold what the folder or list holds now; labels of files that are gone are
    kept for when they come back. Each folder wants its own --out.

    Example: [bold]engine label my_videos --model fast --out labels.csv[/bold]

    Example: [bold]engine label films --model fast --window 2 --segments segments.csv[/bold]

    Example: [bold]find / -name '*.mp4' | engine label - --list --model fast[/bold]

    Example: [bold]engine label --merge labels-1.csv labels-2.csv --out labels.csv[/bold]
    """
    from engine.labelling.job import run
    from engine.labelling.merge import merge as merge_shards
    from engine.labelling.options import LabelOptions

    options = LabelOptions(
        videos=videos, model=model, out=out, format=format_, is_list=is_list,
        include=tuple(include or ()), exclude=tuple(exclude or ()), window_s=window,
        stride_s=stride, segments=segments, subtitles=vtt, smooth_s=smooth, top_k=top_k,
        min_confidence=min_confidence, fresh=not resume, retry=retry, mix=mix, shard=shard,
        merge=merge, cluster=cluster, workers=workers, watch=watch, dry_run=dry_run,
        batch_size=batch_size, timeout_s=timeout, device=device,
    )  # fmt: skip
    raise typer.Exit(merge_shards(options) if merge else run(options))
