"""The video of a request: an upload, a path below an allowed folder, or a URL.

An upload is stored in an unnamed file, which disappears with the request, even if the server is
killed.
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from engine.serving.http.failures import RequestError
from engine.serving.http.remote_file import fetched
from engine.serving.http.settings import ServeSettings

MAX_JSON = 64 * 1024
HOW = 'send a multipart form with the file "video", or JSON with "path" or "url".'


@asynccontextmanager
async def video_of(request: Request, settings: ServeSettings) -> AsyncIterator[Path]:
    """Receive the video of a request and yield its path.

    Raises:
        RequestError: There is none, or it is not allowed.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with _upload(request, settings) as upload:
            yield _path_of(upload)
        return
    if kind != "application/json":
        raise RequestError(415, "request", f"the request has no video: {HOW}")
    given = await _json(request, settings)
    if set(given) == {"path"}:
        yield await asyncio.to_thread(_allowed, given["path"], settings.roots)
    elif set(given) == {"url"}:
        download = fetched(
            str(given["url"]),
            hosts=settings.hosts,
            max_bytes=int(settings.max_upload_mb * 1e6),
            timeout_s=settings.timeout_s,
        )
        file = await asyncio.to_thread(download.__enter__)
        try:
            yield _path_of(file)
        finally:
            download.__exit__(None, None, None)
    else:
        raise RequestError(400, "request", f"the request has no video: {HOW}")


def _path_of(file: Any) -> Path:
    """A path of an unnamed file, which processes of this user can open."""
    return Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")


@asynccontextmanager
async def _upload(request: Request, settings: ServeSettings) -> AsyncIterator[Any]:
    max_bytes = int(settings.max_upload_mb * 1e6)
    body = _body(request, max_bytes, settings.timeout_s)
    parser = MultiPartParser(request.headers, body, max_files=1, max_fields=1)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestError(400, "request", f"the form is not valid: {error.message}") from error
    try:
        upload = form.get("video")
        if not isinstance(upload, UploadFile):
            raise RequestError(400, "request", f'the form has no file "video": {HOW}')
        spooled: Any = upload.file
        spooled.rollover()
        spooled.flush()
        yield spooled
    finally:
        await form.close()


async def _body(request: Request, max_bytes: int, timeout_s: float) -> AsyncGenerator[bytes, None]:
    """The body in parts; it may not be larger than `max_bytes`, nor take longer."""
    too_large = RequestError(413, "size", f"the request is larger than {max_bytes / 1e6:g} MB.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    size = 0
    deadline = asyncio.get_running_loop().time() + timeout_s
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            message = f"the request did not arrive within {timeout_s:g} s."
            raise RequestError(408, "timeout", message) from error
        except ClientDisconnect as error:
            raise RequestError(400, "disconnected", "the client went away.") from error
        if chunk is None:
            return
        size += len(chunk)
        if size > max_bytes:
            raise too_large
        yield chunk


async def _json(request: Request, settings: ServeSettings) -> dict[str, Any]:
    parts = [part async for part in _body(request, MAX_JSON, settings.timeout_s)]
    try:
        values = json.loads(b"".join(parts))
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "request", "the body is not valid JSON.") from error
    if not isinstance(values, dict):
        raise RequestError(400, "request", f"the body is not a JSON object: {HOW}")
    return values


def _allowed(name: Any, roots: tuple[Path, ...]) -> Path:
    """The file that a request names, if it is below an allowed folder."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise RequestError(400, "path", '"path" must be the path of a file.')
    inside = []
    for root in roots:
        path = (root / name).resolve()
        if path.is_relative_to(root.resolve()):
            inside.append(path)
    if not inside:
        raise RequestError(403, "path", '"path" is not below a folder that the server allows.')
    for path in inside:
        if path.is_file():
            return path
    raise RequestError(404, "path", f"there is no file {name}.")
