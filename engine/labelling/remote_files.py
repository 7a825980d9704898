"""Finds the videos of a bucket, page by page, and looks up and fetches files on servers."""

import dataclasses
import errno
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from threading import Event
from typing import Any, TypeVar

from dali_pipelines.errors import Stopped
from engine.data.folders import VIDEO_SUFFIXES
from engine.errors import UserError
from engine.labelling import discovery
from engine.labelling.addresses import (
    BUCKETS,
    file_system,
    is_address,
    is_gone,
    is_lasting,
    name_of,
    protocol_of,
    reason_of,
)
from engine.labelling.discovery import FileFilter, Item

WAITS_S = (1.0, 3.0, 9.0)
"""Waits before another try; the packages of S3 and Google also try again by themselves."""
PAGE = 1000
"""Files of a bucket that are listed at a time."""
NUM_AT_ONCE = 16
"""Files that are looked up at a time."""
NS = 1_000_000_000

Value = TypeVar("Value")


class Unfetched(Exception):
    """A file couldn't be looked up or fetched; the message says why."""

    def __init__(self, reason: str, *, is_gone: bool) -> None:
        super().__init__(reason)
        self.is_gone = is_gone


def item_at(address: str) -> Item:
    """An item for a file that wasn't looked up yet."""
    name = name_of(address)
    return Item(name=name, path=Path(name), size=-1, mtime_ns=0, address=address)


def below(address: str, wanted: FileFilter) -> Iterator[Item]:
    """Yield the videos below an address of a bucket, sorted by key; no more than a page is kept.

    Args:
        address: A bucket or a folder in it, or one video on any server.
        wanted: Selects the videos; for a folder, by their paths below it.

    Raises:
        UserError: The files can't be listed.
    """
    protocol, name = protocol_of(address), name_of(address)
    is_video = PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES
    if protocol not in BUCKETS:
        if name.endswith("/") or name.count("/") < 3:
            raise UserError(
                f"{name} is no address of a file: name one, or a list of them with `list=True`."
            )
        if wanted.takes(name):
            yield item_at(address)
        return
    if is_video:
        try:
            item = looked_up(item_at(address))
        except Unfetched as error:
            if not error.is_gone:
                raise UserError(f"{name} can't be read: {error}.") from error
        else:
            if wanted.takes(name):
                yield item
            return
    bucket, _, folder = name.partition("://")[2].partition("/")
    prefix = f"{folder.rstrip('/')}/" if folder.rstrip("/") else ""
    try:
        for key, facts in _objects(protocol, bucket, prefix):
            below_folder = key.removeprefix(prefix)
            path = PurePosixPath(below_folder)
            is_hidden = any(part.startswith(".") for part in path.parts)
            if path.suffix.lower() not in VIDEO_SUFFIXES or is_hidden or key.endswith("/"):
                continue
            if wanted.takes(below_folder):
                yield _with_facts(item_at(f"{protocol}://{bucket}/{key}"), facts)
    except Unfetched as error:
        what = "there is no such bucket" if error.is_gone else str(error)
        raise UserError(f"{name} can't be listed: {what}.") from error


def _objects(protocol: str, bucket: str, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The key and the facts of each object."""
    files, place = file_system(protocol), ""
    of_page = _page_of_s3 if protocol == "s3" else _page_of_google
    while True:
        found, place = _retried(partial(of_page, files, bucket, prefix, place))
        yield from found
        if not place:
            return


Page = tuple[list[tuple[str, dict[str, Any]]], str]
"""Keys and facts of some objects, and where the next page begins; empty after the last one."""


def _page_of_s3(files: Any, bucket: str, prefix: str, place: str) -> Page:
    more = {"ContinuationToken": place} if place else {}
    page = files.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=PAGE, **more)
    found = [(each["Key"], each) for each in page.get("Contents", ())]
    return found, page.get("NextContinuationToken", "")


def _page_of_google(files: Any, bucket: str, prefix: str, place: str) -> Page:
    more = {"pageToken": place} if place else {}
    page = files.call(
        "GET", "b/{}/o", bucket, prefix=prefix, maxResults=PAGE, json_out=True, **more
    )
    found = [(each["name"], each) for each in page.get("items", ())]
    return found, page.get("nextPageToken", "")


def listed(lines: Iterable[str], wanted: FileFilter) -> Iterator[Item]:
    """Yield an item for each path or address in a list, one a line; see `discovery.listed`.

    Raises:
        UserError: An address can't be used, or two differ only in what their names leave out.
    """
    queries: dict[str, str] = {}
    """What names leave out, by name."""
    for text in discovery.names_in(lines):
        if not is_address(text):
            if wanted.takes(text):
                yield discovery.item_of(text, Path(text))
            continue
        item = item_at(text)
        left_out = text.partition("?")[2] if protocol_of(text) not in BUCKETS else ""
        if left_out and queries.setdefault(item.name, left_out) != left_out:
            raise UserError(
                f"the list holds {item.name} with different parts after the question mark, which "
                "are left out of the results, as they may be signatures: list each file once."
            )
        if wanted.takes(item.name):
            yield item


def looked_up(item: Item, *, stop: Event | None = None) -> Item:
    """The item with the size and time of its file.

    Raises:
        Unfetched: The file can't be looked up.
        Stopped: `stop` was set.
    """
    files, path = _place_of(item)
    facts = _retried(lambda: files.info(path), stop=stop)
    if facts.get("type") == "directory":
        raise Unfetched("the server has no such file", is_gone=True)
    return _with_facts(item, facts)


def all_looked_up(items: Iterable[Item]) -> Iterator[Item]:
    """Look up the items that need it, several at a time; the size of those that fail stays -1."""

    def facts_of(item: Item) -> Item:
        try:
            return looked_up(item) if item.address and not item.is_there else item
        except Unfetched:
            return item

    remaining = iter(items)
    with ThreadPoolExecutor(NUM_AT_ONCE, thread_name_prefix="look up") as pool:
        while some := list(islice(remaining, 4 * NUM_AT_ONCE)):
            yield from pool.map(facts_of, some)


def fetch(item: Item, to: Path, *, stop: Event) -> None:
    """Download a file, with new tries if the network fails.

    Raises:
        Unfetched: It can't be downloaded, or is another file than was looked up.
        OSError: It can't be written.
        Stopped: `stop` was set.
    """
    from fsspec.callbacks import Callback

    class Watch(Callback):
        """Ends a download that is stopped, or longer than it should be and so may never end."""

        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if stop.is_set():
                raise Stopped
            if item.size and self.value > item.size:
                raise ConnectionError("more bytes than the server said")

    files, path = _place_of(item)

    def download() -> None:
        files.get_file(path, str(to), callback=Watch())
        if item.size and to.stat().st_size != item.size:
            raise ConnectionError("fewer bytes than the server said")

    _retried(download, stop=stop)
    if looked_up(item, stop=stop) != item:
        raise Unfetched("it changed while it was downloaded", is_gone=False)


def _place_of(item: Item) -> tuple[Any, str]:
    """The file system of a file, and the path in it."""
    protocol = protocol_of(item.address)
    path = item.address.partition("://")[2] if protocol in BUCKETS else item.address
    return file_system(protocol), path


def _retried(call: Callable[[], Value], *, stop: Event | None = None) -> Value:
    """Call a function that uses the network, again after failures that may pass."""
    stop = stop or Event()
    for wait_s in (*WAITS_S, None):
        if stop.is_set():
            raise Stopped
        try:
            return call()
        except Stopped:
            raise
        except Exception as error:  # of aiohttp, botocore and others, which need not be installed
            if stop.is_set():
                raise Stopped from error
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            if wait_s is None or is_lasting(error):
                raise Unfetched(reason_of(error), is_gone=is_gone(error)) from None
        stop.wait(wait_s)
    raise AssertionError


def _with_facts(item: Item, facts: dict[str, Any]) -> Item:
    """The item with its size and time; the time's fraction is a checksum of the file's tag.

    So the file counts as changed if its tag changes within a second, and stays comparable by time.
    """
    changed = next((facts[key] for key in TIMES if facts.get(key)), None)
    tag = next((str(facts[key]).strip('"') for key in TAGS if facts.get(key)), "")
    size = next((int(facts[key]) for key in ("size", "Size") if facts.get(key)), 0)
    return dataclasses.replace(
        item, size=size, mtime_ns=_seconds(changed) * NS + zlib.crc32(tag.encode()) % NS
    )


TIMES = ("LastModified", "updated", "Last-Modified")
TAGS = ("ETag", "etag", "Content-MD5")


def _seconds(changed: object) -> int:
    if isinstance(changed, str):
        changed = _parsed(changed)
    return int(changed.timestamp()) if isinstance(changed, datetime) else 0


def _parsed(text: str) -> datetime | None:
    """A time as Google's storage or an HTTP server writes it."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            return parse(text)
        except ValueError:
            continue
    return None
