"""`engine app`: a web page that labels one video and shows the frames that the model sees."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def app(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL...", help="Runs, checkpoints or artifacts to choose from."),
    ],
    videos: Annotated[
        list[Path] | None,
        typer.Option(help="Folder whose videos may be chosen on the page; may be repeated."),
    ] = None,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; 0.0.0.0 accepts visitors from other machines."),
    ] = "localhost",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8501,
    max_upload_mb: Annotated[
        int, typer.Option(min=1, help="Maximum size of an upload in MB.")
    ] = 200,
    open_: Annotated[bool, typer.Option("--open", help="Also open the page in a browser.")] = False,
    device: Annotated[str, typer.Option(help="auto, gpu or cpu.")] = "auto",
) -> None:
    """Serve a web page for one video: its label, its frames and its timeline.

    Only this machine can open the page unless --host says otherwise. Visitors
    may upload videos and choose those below --videos, and no others. Uploads
    are deleted. Ctrl-C ends the server.

    Example: [bold]engine app run fast --videos films[/bold]
    """
    from engine.addresses import listen
    from engine.app import site
    from engine.errors import RefusedError, UserError
    from engine.file_names import short_names
    from engine.predictor import class_names_of
    from trt.probe import install_command

    try:
        from streamlit.web import bootstrap
    except ImportError as error:
        raise RefusedError(
            f"the page needs Streamlit, which isn't installed: {install_command('app')}."
        ) from error
    for path in models:
        class_names_of(path)
    for folder in videos or ():
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: pass a folder of videos with --videos.")
    settings = site.Site(
        models={name: str(path) for name, path in short_names(models).items()},
        folders=tuple(str(folder.absolute()) for folder in videos or ()),
        max_upload_mb=max_upload_mb,
        device=device,
    )
    listen(host, port).close()  # Streamlit would report a taken port in its log only
    options = site.streamlit_options(settings, host=host, port=port, open_browser=open_)
    script = Path(site.__file__).with_name("streamlit_script.py")
    print(f"the page is at http://{host}:{port}; Ctrl-C ends it", flush=True)
    bootstrap.load_config_options(options)
    bootstrap.run(str(script), False, [settings.to_json()], options)
    # A visitor's thread may still be inside a model: an ordinary exit would end it there, and C++
    # aborts the process when a thread ends in the middle of its code.
    sys.stdout.flush()
    os._exit(0)
