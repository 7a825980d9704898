"""`engine label`: label whole folders of videos."""

from pathlib import Path
from typing import Annotated

import typer

INPUT, OUTPUT, RESUME = "Input", "Output", "Continue or start again"
MACHINES, ADVANCED = "Several machines", "Advanced"


def label(
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEOS...",
            help="A folder of videos, searched at any depth; an address such as "
            "s3://bucket/folder, gs://… or https://…/film.mp4; with --list, a file of paths and "
            "addresses (- for standard input); with --merge, the results of all shards.",
        ),
    ],
    model: Annotated[
        Path | None,
        typer.Option(help="A run, a checkpoint, or an artifact of `engine compile`."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Results: .csv, .jsonl or .parquet.")] = Path(
        "labels.csv"
    ),
    window: Annotated[
        float | None,
        typer.Option(help="Label windows of this many seconds instead of whole videos."),
    ] = None,
    stride: Annotated[
        float | None,
        typer.Option(help="Seconds from one window to the next. Default: --window."),
    ] = None,
    segments: Annotated[
        Path | None, typer.Option(help="Also write a CSV with start, end and label of each action.")
    ] = None,
    vtt: Annotated[
        Path | None, typer.Option(help="Also write subtitles, which any player shows, here.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Labels to write per video.")] = 5,
    device: Annotated[str, typer.Option(help="auto, gpu or cpu.")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be labelled and stop.")
    ] = False,
    is_list: Annotated[
        bool,
        typer.Option(
            "--list",
            rich_help_panel=INPUT,
            help="VIDEOS is a text file with one path or address per line.",
        ),
    ] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=INPUT,
            help="Only files that match this pattern, for example '*/front/*.mp4'; repeatable.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=INPUT, help="Skip files that match this pattern; may be repeated."
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            rich_help_panel=INPUT,
            help="Keep running and label new files as they arrive, until Ctrl-C. For cameras and "
            "streams: `engine watch`.",
        ),
    ] = False,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            rich_help_panel=OUTPUT,
            help="csv, jsonl, parquet, labelstudio, or fiftyone (name the file samples.json). "
            "Default: from the suffix of --out.",
        ),
    ] = None,
    smooth: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="Seconds over which segments are smoothed. Default: 2 × --window.",
        ),
    ] = None,
    min_confidence: Annotated[
        float,
        typer.Option(
            rich_help_panel=OUTPUT, help="Mark videos with a lower confidence for review."
        ),
    ] = 0.0,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--fresh",
            rich_help_panel=RESUME,
            help="Continue where the last run stopped, or discard its results.",
        ),
    ] = True,
    retry: Annotated[
        bool, typer.Option(rich_help_panel=RESUME, help="Try files again that failed before.")
    ] = False,
    mix: Annotated[
        bool,
        typer.Option(
            rich_help_panel=RESUME,
            help="Continue with another model, folder or pattern than before, and keep all labels "
            "of earlier runs in the results.",
        ),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MACHINES,
            help="i/n: label part i of n, one part per machine; join them with --merge.",
        ),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            rich_help_panel=MACHINES,
            help="Join the results of all shards into one; --fresh replaces other labels.",
        ),
    ] = False,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster", rich_help_panel=MACHINES, help="Label on a Ray cluster (extra `cluster`)."
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=MACHINES,
            help="Workers with --cluster. Default: one per GPU, or per node.",
        ),
    ] = None,
    decoder: Annotated[
        str,
        typer.Option(
            rich_help_panel=ADVANCED,
            help="On a GPU: pyav (the CPU decodes, and damaged frames are reported), nvdec (the "
            "GPU decodes what it can, and doesn't notice damage), or auto (a short measurement "
            "decides per codec and size).",
        ),
    ] = "pyav",
    max_download: Annotated[
        float,
        typer.Option(
            rich_help_panel=ADVANCED,
            help="GB of disk for videos that are downloaded, in the folder of TMPDIR. They are "
            "removed when they are labelled; a larger video is downloaded alone.",
        ),
    ] = 8.0,
    batch_size: Annotated[
        int, typer.Option(min=1, rich_help_panel=ADVANCED, help="Windows in a batch.")
    ] = 8,
    timeout: Annotated[
        float,
        typer.Option(
            rich_help_panel=ADVANCED,
            help="Seconds without a frame after which a file counts as failed; at least 1.",
        ),
    ] = 120.0,
) -> None:
    """Label a folder of videos. Stop it at any time; the same command continues.

    Labels are saved after every batch, so nothing is lost and nothing is labelled
    twice. Files that can't be read are listed in failures-labels.csv, named after
    --out, and the exit code is 1. The results contain the files that the folder or
    list contains now; labels of files that are gone are kept in case they come
    back. Each folder needs its own --out.

    Example: [bold]engine label my_videos --model fast --out labels.csv[/bold]

    Example: [bold]engine label films --model fast --window 2 --segments segments.csv[/bold]

    Example: [bold]find / -name '*.mp4' | engine label - --list --model fast[/bold]

    Example: [bold]engine label s3://bucket/films --model fast --out labels.csv[/bold]

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
        batch_size=batch_size, timeout_s=timeout, device=device, decoder=decoder,
        max_download_gb=max_download,
    )  # fmt: skip
    raise typer.Exit(merge_shards(options) if merge else run(options))
