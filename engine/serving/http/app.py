"""The ASGI application: its routes, the check of the API key, and its errors."""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel

from dali_pipelines.errors import EngineError, VideoError
from engine.serving.http.failures import RequestError
from engine.serving.http.inputs import video_of
from engine.serving.http.service import Row, Service
from engine.serving.http.settings import ServeSettings

LOG = logging.getLogger("uvicorn.error")
NDJSON = "application/x-ndjson"
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["video"],
                    "properties": {"video": {"type": "string", "format": "binary"}},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "path": {"type": "string", "description": "Below an allowed folder."},
                        "url": {"type": "string", "description": "Of an allowed host."},
                    },
                }
            },
        },
    }
}


class Failure(BaseModel):
    error: str


class Window(BaseModel):
    label: str
    confidence: float
    top: dict[str, float]
    start_s: float
    end_s: float
    warning: str | None = None


class Label(Window):
    model: str
    digest: str


class Windows(BaseModel):
    model: str
    windows: list[Window]


FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure, "description": text}
    for status, text in {
        400: "The request is not valid.",
        401: "The API key is missing or wrong.",
        403: "The path or URL is not allowed.",
        404: "There is no such model or file.",
        408: "The request did not arrive in time.",
        413: "The request is too large.",
        422: "The file can't be read as video.",
        429: "The server is busy; see Retry-After.",
        502: "The URL can't be read.",
        504: "There was no answer in time.",
    }.items()
}
Model = Annotated[str | None, Query(description="Name of a model; by default the first one.")]
TopK = Annotated[int, Query(ge=1, le=1000, description='Classes in "top".')]


def create_app(settings: ServeSettings) -> FastAPI:
    """Create the application; it opens the models when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = service = await asyncio.to_thread(Service, settings)
        reloading = asyncio.create_task(_reload(service))
        yield
        reloading.cancel()
        with suppress(asyncio.CancelledError):
            await reloading
        await asyncio.to_thread(service.close)

    app = FastAPI(title="engine", description=__doc__, lifespan=lifespan, redoc_url=None)
    app.add_exception_handler(Exception, _unexpected)

    @app.get("/healthz", summary="Whether the server runs")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether the models are open")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.get("/metrics", summary="Prometheus metrics")
    async def metrics(request: Request) -> Response:
        service: Service = request.app.state.service
        return PlainTextResponse(service.metrics.text())

    @app.get("/v1/models", summary="The models", responses=FAILURES)
    async def models(request: Request) -> Response:
        if failure := _check_key(request, settings):
            return failure
        return JSONResponse({"models": request.app.state.service.facts()})

    @app.post(
        "/v1/predict", summary="Label a video", openapi_extra=BODY, response_model=Label,
        responses=FAILURES,
    )  # fmt: skip
    async def predict(request: Request, model: Model = None, top_k: TopK = 5) -> Response:
        async def answer(service: Service) -> Response:
            served = service.model(model)
            async with _received(request, service) as path:
                with service.queued():
                    return JSONResponse(await service.predict(path, served, top_k=top_k))

        return await _answered(request, settings, "predict", model, answer)

    @app.post(
        "/v1/windows", summary="Label the windows of a long video", openapi_extra=BODY,
        response_model=Windows, responses=FAILURES,
    )  # fmt: skip
    async def windows(
        request: Request,
        window: Annotated[float, Query(gt=0, description="Length of a window in seconds.")],
        stride: Annotated[
            float | None,
            Query(gt=0, description="Seconds from one window to the next; by default `window`."),
        ] = None,
        stream: Annotated[
            bool, Query(description="Send each window as a line of JSON when it is labelled.")
        ] = False,
        model: Model = None,
        top_k: TopK = 5,
    ) -> Response:
        async def rows(service: Service) -> AsyncGenerator[Row, None]:
            served = service.model(model)
            async with _received(request, service) as path:
                with service.queued():
                    found = service.windows(
                        path, served, window_s=window, stride_s=stride, top_k=top_k
                    )
                    async with aclosing(found):
                        async for row in found:
                            yield row

        async def answer(service: Service) -> Response:
            if stream:
                found = rows(service)
                first = await anext(found)  # errors before the first window have a status
                return StreamingResponse(_lines(first, found), media_type=NDJSON)
            name = service.model(model).name
            return JSONResponse({"model": name, "windows": [row async for row in rows(service)]})

        return await _answered(request, settings, "windows", model, answer)

    return app


@asynccontextmanager
async def _received(request: Request, service: Service) -> AsyncIterator[Any]:
    started = time.monotonic()
    video = video_of(request, service.settings)
    with service.uploading():
        path = await video.__aenter__()
    service.metrics.stage_s.labels("receive").observe(time.monotonic() - started)
    try:
        yield path
    finally:
        await video.__aexit__(None, None, None)


async def _answered(
    request: Request, settings: ServeSettings, endpoint: str, model: str | None, answer: Any
) -> Response:
    """Compute an answer; errors become answers, too, and all are counted."""
    started = time.monotonic()
    service: Service = request.app.state.service
    response = _check_key(request, settings)
    reason = "key"
    if response is None:
        try:
            response = await answer(service)
            reason = ""
        except RequestError as error:
            response, reason = _failure(error.status, str(error)), error.reason
            if error.retry_after_s:
                response.headers["Retry-After"] = str(error.retry_after_s)
        except VideoError as error:
            response, reason = _failure(422, _of_video(error)), "video"
        except EngineError as error:
            response, reason = _failure(400, str(error)), "request"
    name = model or next(iter(service.models))
    name = name if name in service.models else ""
    service.metrics.requests.labels(endpoint, name, str(response.status_code)).inc()
    service.metrics.stage_s.labels("total").observe(time.monotonic() - started)
    if reason:
        service.metrics.failures.labels(endpoint, reason).inc()
    return response


async def _lines(first: Row, others: AsyncGenerator[Row, None]) -> AsyncIterator[bytes]:
    yield _line(first)
    try:
        async with aclosing(others):
            async for row in others:
                yield _line(row)
    except RequestError as error:
        yield _line({"error": str(error)})
    except VideoError as error:
        yield _line({"error": _of_video(error)})


def _line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _check_key(request: Request, settings: ServeSettings) -> JSONResponse | None:
    if not settings.api_key:
        return None
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if hmac.compare_digest(given.encode(), settings.api_key.encode()):
        return None
    failure = _failure(401, "the API key is missing or wrong: send `Authorization: Bearer KEY`.")
    failure.headers["WWW-Authenticate"] = "Bearer"
    return failure


def _of_video(error: VideoError) -> str:
    return f"video: {error.reason}."  # without its path, which is a temporary one


def _failure(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    """Starlette logs the traceback after this."""
    return _failure(500, "the server failed; its log says why.")


async def _reload(service: Service) -> None:
    while True:
        await asyncio.sleep(service.settings.reload_s)
        await asyncio.to_thread(service.reload_changed)
