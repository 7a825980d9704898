"""Fetches a video by its URL, from allowed hosts only.

A request chooses the URL, so it must not reach anything that the server's owner hasn't named: each
redirect is checked like the first address, and a host name that leads to a private address is
refused. The connection goes to the address that was checked.
"""

import http.client
import ipaddress
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO
from urllib.parse import SplitResult, urljoin, urlsplit

from engine.serving.http.failures import RequestError

MAX_REDIRECTS = 5
CHUNK = 2**18
REDIRECTS = (301, 302, 303, 307, 308)
PORTS = {"http": 80, "https": 443}


@contextmanager
def fetched(
    url: str, *, hosts: tuple[str, ...], max_bytes: int, timeout_s: float
) -> Iterator[IO[bytes]]:
    """Download a file to an unnamed temporary file.

    Args:
        url: Of http or https.
        hosts: Allowed hosts, as HOST or HOST:PORT.
        max_bytes: Largest file.
        timeout_s: For all of it.

    Raises:
        RequestError: The URL is not allowed, or can't be read.
    """
    deadline = time.monotonic() + timeout_s
    try:
        for _ in range(MAX_REDIRECTS + 1):
            with closing(_connect(url, hosts, deadline)) as connection:
                response = _get(connection, urlsplit(url))
                if response.status in REDIRECTS and (target := response.getheader("Location")):
                    url = urljoin(url, target)
                    continue
                if response.status != 200:
                    raise RequestError(
                        502, "url", f"the server of the URL answers with status {response.status}."
                    )
                with tempfile.TemporaryFile() as file:
                    _save(response, file, max_bytes, deadline)
                    yield file
                    return
    except (OSError, http.client.HTTPException) as error:
        raise RequestError(502, "url", f"the URL can't be read ({error}).") from error
    raise RequestError(502, "url", f"the URL redirects more than {MAX_REDIRECTS} times.")


def _connect(url: str, hosts: tuple[str, ...], deadline: float) -> http.client.HTTPConnection:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise RequestError(400, "url", f"the URL is not valid ({error}).") from error
    if parts.scheme not in PORTS or not host:
        raise RequestError(400, "url", "a URL must start with http:// or https:// and a host.")
    shown = f"[{host}]" if ":" in host else host
    names = {f"{shown}:{port}"} | ({shown} if port == PORTS[parts.scheme] else set())
    if names.isdisjoint(name.lower() for name in hosts):
        raise RequestError(403, "url", f"{shown}:{port} is not an allowed host of URLs.")
    address = _address(host, port)
    timeout_s = max(0.1, deadline - time.monotonic())
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    opened = socket.create_connection((address, port), timeout=timeout_s)
    if parts.scheme == "https":
        opened = ssl.create_default_context().wrap_socket(opened, server_hostname=host)
    connection.sock = opened
    return connection


def _address(host: str, port: int) -> str:
    """The address of an allowed host; a private one must have been allowed as an address."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(item[4][0]).partition("%")[0]) for item in found]
    for address in addresses:
        mapped = getattr(address, "ipv4_mapped", None)
        if not (mapped or address).is_global:
            raise RequestError(
                403,
                "url",
                f"{host} leads to the private address {address}; if that is right, the server has "
                "to allow the address instead of the name.",
            )
    return str(addresses[0])


def _get(connection: http.client.HTTPConnection, parts: SplitResult) -> http.client.HTTPResponse:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", target, headers={"User-Agent": "engine", "Connection": "close"})
    return connection.getresponse()


def _save(
    response: http.client.HTTPResponse, file: IO[bytes], max_bytes: int, deadline: float
) -> None:
    size = 0
    while chunk := response.read1(CHUNK):
        size += len(chunk)
        if size > max_bytes:
            raise RequestError(413, "size", f"the file is larger than {max_bytes / 1e6:g} MB.")
        if time.monotonic() > deadline:
            raise RequestError(504, "timeout", "the URL was not read in time.")
        file.write(chunk)
    file.flush()
    if response.length:
        raise RequestError(502, "url", "the connection of the URL broke before the end.")
