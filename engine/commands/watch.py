"""`engine watch`: label live streams."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from engine.watching.events import Event
    from engine.watching.watch import StreamPrediction, WatchTally

WINDOWS, EVENTS, ADVANCED = "Windows", "Events", "Advanced"


def watch(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="A camera (/dev/video0), a URL (rtsp, http, …), a named pipe, - for standard "
            "input, or a file, which may still grow.",
        ),
    ],
    model: Annotated[
        Path, typer.Option(help="A run, a checkpoint, or an artifact of `engine compile`.")
    ],
    window: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=WINDOWS,
            help="Seconds of a window. Default: what the frames of a clip span, if the model was "
            "trained on clips of fixed length (sampling `uniform`), and else 2.",
        ),
    ] = None,
    stride: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=WINDOWS,
            help="Seconds from one window to the next. Default: half of --window.",
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Labels to write per window.")] = 5,
    events: Annotated[
        bool,
        typer.Option(
            "--events", rich_help_panel=EVENTS, help="Write a line only when the label changes."
        ),
    ] = False,
    min_confidence: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            rich_help_panel=EVENTS,
            help="With --events: windows with a lower confidence have no label.",
        ),
    ] = 0.0,
    hold: Annotated[
        float,
        typer.Option(
            min=0.0,
            rich_help_panel=EVENTS,
            help="With --events: seconds that a new label must last before it counts.",
        ),
    ] = 0.0,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1,
            rich_help_panel=ADVANCED,
            help="Seconds without a frame after which a camera or URL is connected again, and a "
            "file counts as finished.",
        ),
    ] = 10.0,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=ADVANCED,
            help="Largest number of windows that the model gets at once. Default: the number of "
            "sources, at most 8.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(rich_help_panel=ADVANCED, help="auto, gpu or cpu.")
    ] = "auto",
) -> None:
    """Label live streams: one JSON line per window on standard output, until Ctrl-C.

    A camera or URL that ends or stalls is connected again. If the model is too
    slow, old windows are dropped and counted. The command ends when all its files
    and pipes have ended. To label the new files of a folder, use
    [bold]engine label FOLDER --watch[/bold].

    Example: [bold]engine watch /dev/video0 --model fast[/bold]

    Example: [bold]engine watch rtsp://camera/door rtsp://camera/yard --model fast --events[/bold]

    Example: [bold]ffmpeg -i film.mp4 -c copy -f mpegts - | engine watch - --model fast[/bold]
    """
    import sys

    from dali_pipelines.loaders.windows import require_seconds
    from engine.errors import UserError
    from engine.interrupt import INTERRUPTED, Interrupted
    from engine.predictor import open_predictor
    from engine.watching.events import EventFilter
    from engine.watching.watch import WatchTally, parse_sources
    from engine.watching.watch import watch as watch_streams

    if not events and (min_confidence or hold):
        raise UserError("`min_confidence` and `hold` need `events=True`.")
    require_seconds(window, stride)
    tally = WatchTally()
    names = [source.name for source in parse_sources(sources)]
    filters = {
        name: EventFilter(min_confidence=min_confidence, hold_s=hold) for name in names
    }  # fmt: skip
    try:
        predictor = open_predictor(model, device)
        predictions = watch_streams(
            predictor,
            sources,
            window_s=window,
            stride_s=stride,
            top_k=top_k,
            batch_size=batch_size,
            timeout_s=timeout,
            on_status=_say,
            tally=tally,
        )
        for prediction in predictions:
            if not events:
                _write(_window_line(prediction))
            elif (event := filters[prediction.source].add(prediction)) is not None:
                _write(_event_line(event))
    except Interrupted:
        print(f"engine: stopped; {_summary(tally)}.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    _say(_summary(tally))
    raise typer.Exit(1 if tally.failures else 0)


def _say(text: str) -> None:
    import sys

    print(f"engine: {text}", file=sys.stderr, flush=True)


def _write(line: dict[str, Any]) -> None:
    import json

    print(json.dumps(line, ensure_ascii=False), flush=True)


def _window_line(prediction: "StreamPrediction") -> dict[str, Any]:
    line = {
        "source": prediction.source,
        "start": prediction.start_s,
        "end": prediction.end_s,
        "time": _clock(prediction),
        "label": prediction.label,
        "confidence": _rounded(prediction.confidence),
        "top": {label: _rounded(share) for label, share in prediction.top.items()},
        "delay": prediction.delay_s,
        "dropped": prediction.dropped,
    }
    return line | ({"warning": prediction.warning} if prediction.warning else {})


def _event_line(event: "Event") -> dict[str, Any]:
    prediction = event.prediction
    return {
        "source": prediction.source,
        "label": event.label,
        "since": event.since_s,
        "start": prediction.start_s,
        "end": prediction.end_s,
        "time": _clock(prediction),
        "confidence": _rounded(prediction.confidence),
        "delay": prediction.delay_s,
        "dropped": prediction.dropped,
    }


def _clock(prediction: "StreamPrediction") -> str:
    return prediction.time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rounded(share: float) -> float:
    return round(share, 4)


def _summary(tally: "WatchTally") -> str:
    words = [f"{tally.windows:,} windows labelled", f"{tally.dropped:,} dropped"]
    if tally.lost:
        words.append(f"connections lost: {tally.lost:,}")
    if tally.failures:
        words.append(f"not read to the end: {', '.join(tally.failures)}")
    return ", ".join(words)
