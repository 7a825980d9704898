"""`engine serve`: label videos over HTTP."""

from pathlib import Path
from typing import Annotated

import typer

INPUT, LIMITS = "What requests may name", "Batches and limits"


def serve(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL...", help="Artifacts or runs; the first is the default."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 accepts other machines.")
    ] = "localhost",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    api_key: Annotated[
        str,
        typer.Option(
            envvar="ENGINE_API_KEY",
            show_envvar=True,
            help="Key that requests have to send as `Authorization: Bearer KEY`; better set as an "
            "environment variable, because other users can see command lines.",
        ),
    ] = "",
    device: Annotated[str, typer.Option(help="auto, gpu or cpu.")] = "auto",
    allow_folder: Annotated[
        list[Path] | None,
        typer.Option(
            rich_help_panel=INPUT,
            help="A folder whose videos requests may name by path; may be repeated.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=INPUT,
            help="A host (or HOST:PORT) from which requests may name videos by URL; repeatable.",
        ),
    ] = None,
    max_batch: Annotated[
        int, typer.Option(min=1, rich_help_panel=LIMITS, help="Clips in a batch.")
    ] = 8,
    max_wait_ms: Annotated[
        float,
        typer.Option(
            min=0,
            rich_help_panel=LIMITS,
            help="How long the first clip of a batch waits for others that are being decoded.",
        ),
    ] = 50.0,
    queue: Annotated[
        int,
        typer.Option(
            min=1,
            rich_help_panel=LIMITS,
            help="Requests in work; further ones are refused with status 429.",
        ),
    ] = 64,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1,
            rich_help_panel=LIMITS,
            help="Seconds for a request with its upload; for windows, from one to the next.",
        ),
    ] = 60.0,
    max_upload_mb: Annotated[
        float, typer.Option(min=0.001, rich_help_panel=LIMITS, help="Largest video in MB.")
    ] = 200.0,
    max_duration: Annotated[
        float, typer.Option(min=0.1, rich_help_panel=LIMITS, help="Longest video in seconds.")
    ] = 3600.0,
    replicas: Annotated[
        int,
        typer.Option(
            min=0,
            help="Serve on a Ray cluster with this many replicas (extra `cluster`); 0 serves in "
            "this process.",
        ),
    ] = 0,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="Print a line for each request.")
    ] = False,
) -> None:
    """Label videos over HTTP: uploads, and files or URLs that are allowed here.

    Requests are decoded in threads and go through the model in batches. Only this
    machine can connect unless --host says otherwise. A model that is compiled or
    trained again is opened anew while the server runs. SIGTERM and Ctrl-C answer
    what was accepted, and end the server.

    Example: [bold]engine serve fast[/bold]

    Example: [bold]curl -F video=@clip.mp4 localhost:8000/v1/predict[/bold]

    Example: [bold]curl -F video=@film.mp4 'localhost:8000/v1/windows?window=2&stride=1'[/bold]

    Example: [bold]engine serve fast slow --host 0.0.0.0 --allow-folder films[/bold]

    The API is described at /docs, and measured for Prometheus at /metrics.
    """
    from engine.errors import RefusedError
    from engine.file_names import short_names
    from engine.predictor import class_names_of
    from engine.serving.http.settings import ServeSettings
    from trt.probe import install_command

    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise RefusedError(
            f"the server needs {error.name}, which isn't installed: {install_command('serve')}."
        ) from error
    for path in models:
        class_names_of(path)
    settings = ServeSettings(
        models={name: path.absolute() for name, path in short_names(models).items()},
        device=device,
        roots=tuple(folder.absolute() for folder in allow_folder or ()),
        hosts=tuple(allow_host or ()),
        api_key=api_key,
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        queue=queue,
        timeout_s=timeout,
        max_upload_mb=max_upload_mb,
        max_duration_s=max_duration,
    )
    if replicas:
        from engine.serving.http.ray_serve import run_on_ray

        run_on_ray(settings, host=host, port=port, replicas=replicas)
        return
    from engine.serving.http.run import run

    run(settings, host=host, port=port, log_requests=log_requests)
