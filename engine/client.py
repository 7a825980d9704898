"""A client of `engine serve`, with nothing but Python's standard library.

Example:
    >>> from engine.client import Client
    >>> Client("http://localhost:8000").predict("clip.avi")["label"]
    'wave'
"""

import http.client
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from engine.errors import UserError

CHUNK = 2**18
BUSY = (429, 503)
RETRY_S = 1.0


class ServerError(UserError):
    """The server has refused a request; the message is its reason.

    Attributes:
        status: Of HTTP; 0 if the server can't be reached.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Sends videos to a server. It may be shared by threads.

    Args:
        url: The server, such as http://localhost:8000.
        api_key: The key of the server, if it has one.
        timeout_s: For connecting, and for each part of an answer.
        retries: How often a request is sent again if the server is busy or can't be reached.
    """

    def __init__(
        self, url: str, *, api_key: str = "", timeout_s: float = 90.0, retries: int = 5
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError("the address of a server must look like http://localhost:8000.")
        self._is_https = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s
        self._retries = retries

    def predict(
        self, video: "str | os.PathLike[str]", *, model: str | None = None, top_k: int = 5
    ) -> dict[str, Any]:
        """Upload a video and return its label, confidence and top classes.

        Raises:
            ServerError: The server has refused it.
        """
        target = self._target("/v1/predict", model=model, top_k=top_k)
        with self._answer(target, Path(video)) as response:
            return json.loads(response.read())

    def predict_windows(
        self,
        video: "str | os.PathLike[str]",
        *,
        window_s: float,
        stride_s: float | None = None,
        model: str | None = None,
        top_k: int = 5,
    ) -> Iterator[dict[str, Any]]:
        """Upload a long video and yield the label of each window, as soon as it is known.

        Raises:
            ServerError: The server has refused it, or it can't be read to its end.
        """
        target = self._target(
            "/v1/windows", window=window_s, stride=stride_s, model=model, top_k=top_k,
            stream="true",
        )  # fmt: skip
        with self._answer(target, Path(video)) as response:
            for line in response:
                row = json.loads(line)
                if "error" in row:
                    raise ServerError(f"{video}: {row['error']}", response.status)
                yield row

    def _target(self, path: str, **values: Any) -> str:
        given = {name: value for name, value in values.items() if value is not None}
        return f"{self._prefix}{path}?{urlencode(given)}"

    @contextmanager
    def _answer(self, target: str, video: Path) -> Iterator[http.client.HTTPResponse]:
        for attempt in range(self._retries + 1):
            make = http.client.HTTPSConnection if self._is_https else http.client.HTTPConnection
            connection = make(self._host, self._port, timeout=self._timeout_s)
            try:
                try:
                    response = self._post(connection, target, video)
                except (ConnectionError, http.client.HTTPException, TimeoutError) as error:
                    failure = ServerError(f"{self._name} can't be reached ({error!r}).", 0)
                    wait_s = RETRY_S
                else:
                    if response.status == 200:
                        yield response
                        return
                    failure = ServerError(f"{video}: {_reason(response)}", response.status)
                    if response.status not in BUSY:
                        raise failure
                    wait_s = float(response.getheader("Retry-After") or RETRY_S)
            finally:
                connection.close()
            if attempt < self._retries:
                time.sleep(wait_s)
        raise failure

    def _post(
        self, connection: http.client.HTTPConnection, target: str, video: Path
    ) -> http.client.HTTPResponse:
        boundary = secrets.token_hex(16)
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="video"; filename="video"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        size = len(head) + video.stat().st_size + len(tail)
        headers = {
            **self._headers,
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(size),
        }

        def body() -> Iterator[bytes]:
            yield head
            with video.open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
            yield tail

        connection.request("POST", target, body=body(), headers=headers)
        return connection.getresponse()


def _reason(response: http.client.HTTPResponse) -> str:
    try:
        return str(json.loads(response.read())["error"])
    except (ValueError, KeyError, TypeError):
        return f"the server answers with status {response.status}."
