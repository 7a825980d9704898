"""Addresses of files on servers, such as s3://bucket/key: what they are called, and who opens them.

fsspec and its packages for each protocol do the work. Names never hold what an address may keep
secret: a password, or the signature after the question mark of a signed URL.
"""

import functools
import re
from typing import Any
from urllib.parse import urlsplit

from engine.errors import RefusedError, UserError, unknown_name

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "https": "aiohttp", "http": "aiohttp"}
BUCKETS = ("s3", "gs")
"""Protocols whose addresses are a bucket and a key, in which any character is meant as it is."""
SILENT_S = 60.0
"""Seconds after which a server that sends nothing has failed."""
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
PERMANENT = range(400, 500)
TRANSIENT = {408, 425, 429}
"""HTTP status codes of failures that a later try may not have; all from 500 on may not, either."""


def is_address(text: str) -> bool:
    return SCHEME.match(text) is not None


def protocol_of(address: str) -> str:
    """The protocol; raises UserError if none of ours."""
    scheme = SCHEME.match(address)
    assert scheme
    protocol = scheme[1].lower()
    if protocol not in PACKAGES:
        raise unknown_name("protocol", protocol, list(PACKAGES))
    return protocol


def name_of(address: str) -> str:
    """The address without a password, and without what follows the path in a URL.

    Raises:
        UserError: The protocol is unknown, or there is no bucket or server.
    """
    protocol = protocol_of(address)
    rest = address.partition("://")[2]
    server, slash, path = rest.partition("/")
    if protocol in BUCKETS and "@" in server:
        raise UserError(
            f"an address of {protocol}:// holds no password: set it where {PACKAGES[protocol]} "
            "looks for it, such as an environment variable."
        )
    if protocol not in BUCKETS:
        parts = urlsplit(address)
        server, path = parts.netloc.rpartition("@")[2], parts.path
        slash = ""
    if not server:
        raise UserError(f"{protocol}:// is followed by no server or bucket.")
    return f"{protocol}://{server}{slash}{path}"


@functools.cache
def file_system(protocol: str) -> Any:
    """The file system of fsspec for a protocol.

    Raises:
        RefusedError: Its package is not installed.
    """
    import fsspec

    from trt.probe import install_command

    settings: dict[str, Any] = {"use_listings_cache": False}
    try:
        if protocol in ("http", "https"):
            import aiohttp

            limits = aiohttp.ClientTimeout(
                total=None, sock_connect=SILENT_S, sock_read=SILENT_S
            )  # by default, a file may take five minutes
            settings["client_kwargs"] = {"timeout": limits}
        return fsspec.filesystem(protocol, **settings)
    except ImportError as error:
        raise RefusedError(
            f"addresses of {protocol}:// need {PACKAGES[protocol]}, which isn't installed: "
            f"{install_command('remote')}."
        ) from error


def with_slashes(text: str) -> str:
    """Text with names of files on servers that went through `Path`, as they are written."""
    return re.sub(rf"\b({'|'.join(PACKAGES)}):/(?!/)", r"\1://", text)


def is_lasting(error: BaseException) -> bool:
    """Whether trying again is useless."""
    status = _status_of(error)
    if status is not None:
        return status in PERMANENT and status not in TRANSIENT
    return is_gone(error) or isinstance(error, PermissionError) or _lacks_credentials(error)


def is_gone(error: BaseException) -> bool:
    """Whether there is no such file. fsspec says so of every failure of a look-up by HTTP."""
    status = _status_of(error)
    if status is not None:
        return status in (404, 410)
    cause = error.__cause__
    failed_otherwise = isinstance(cause, TimeoutError) or (
        type(cause).__module__.partition(".")[0] == "aiohttp"
    )
    return isinstance(error, FileNotFoundError) and not failed_otherwise


def reason_of(error: BaseException) -> str:
    """Say what failed. The error's own words are not used: they may hold the whole address."""
    status = _status_of(error)
    if is_gone(error):
        return "the server has no such file"
    if isinstance(error, PermissionError) or status in (401, 403):
        return "the server denies access"
    if _lacks_credentials(error):
        return "no credentials for its server were found"
    if status is not None:
        return f"the server answers with error {status}"
    if isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError):
        return "the server doesn't answer"
    return f"the connection to its server fails ({type(error.__cause__ or error).__name__})"


def _status_of(error: BaseException) -> int | None:
    """The HTTP status that caused an error, where aiohttp, gcsfs or botocore say it."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        status = getattr(each, "status", None) or metadata.get("HTTPStatusCode")
        status = status or getattr(each, "code", None)
        if isinstance(status, int) and status >= 400:
            return status
    return None


def _lacks_credentials(error: BaseException) -> bool:
    return "Credentials" in type(error).__name__
