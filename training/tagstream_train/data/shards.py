"""WebDataset shards: tar files with many images, each beside its JSON document.

A sample names its image as a path through the shard: `shards/000017.tar/000123456.jpg`, or the same below
`s3://bucket/prefix`. One read of a shard then takes the place of thousands of small ones. What lies in a bucket is
fetched as a whole, into a file that is gone with the process.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, cast

from workers.errors import Misconfigured

SUFFIX: Final = ".tar/"
WINDOW = 4
"""Shards whose images are mixed with each other in training, and so are open at once."""
MAX_SHARD_BYTES = 2 * 1024**3
MAX_MEMBERS = 2_000_000
MAX_NAME_BYTES: Final = 4096
MAX_HEADER_BYTES: Final = 6 * 1024
"""The most that is read of one member's headers: a long name or pax attributes, and the header itself."""
HEADERS_S = 600.0
"""The longest that the headers of one shard may take."""

_OPEN = 2 * WINDOW + 1
"""Those of one window and of the next, which is begun before the last batch of the first is done."""


class BadShard(Misconfigured):
    """A shard can't be read, or has no such member."""


class Place(NamedTuple):
    """A member of a shard. `shard` ends in `.tar`."""

    shard: str
    member: str


def place_of(image: str) -> Place | None:
    """Shard and member, if an image's name leads through one."""
    shard, found, member = image.partition(SUFFIX)
    return Place(f"{shard}.tar", member) if found and member else None


def file_of(image: str) -> str:
    """The file with an image: its shard, or its own."""
    place = place_of(image)
    return place.shard if place else image


class Shards:
    """Reads shards' members, and keeps some shards open. Thread-safe.

    Args:
        locate: the file of a shard by its name, fetched if need be; the second answer: it is ours, to be removed.
    """

    def __init__(self, locate: Callable[[str], tuple[Path, bool]]) -> None:
        self._locate = locate
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Future[_Shard]] = OrderedDict()

    def read(self, place: Place, most: int) -> bytes:
        """A member's content, at most one byte more than `most`.

        Raises:
            BadShard: there is no such shard or member, or it is no tar file.
            Whatever `locate` raises.
        """
        return self._shard(place.shard).read(place.member, most)

    def _shard(self, name: str) -> _Shard:
        with self._lock:
            known = self._open.get(name)
            future = self._open.setdefault(name, known or Future())
            self._open.move_to_end(name)
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)
        if known is None:
            self._fill(name, future)
        return future.result()

    def _fill(self, name: str, future: Future[_Shard]) -> None:
        try:
            future.set_result(_Shard(*self._locate(name)))
        except BaseException as error:
            with self._lock:
                self._open.pop(name, None)
            future.set_exception(error)
            if not isinstance(error, Exception):
                raise


class _Shard:
    """One open tar file and its members' places."""

    def __init__(self, path: Path, ours: bool) -> None:
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe might never begin
        except OSError as error:
            raise BadShard(f"the shard can't be read: {error.strerror}") from None
        finally:
            if ours:
                path.unlink()  # an open file stays readable
        weakref.finalize(self, os.close, self._file)
        self._members = members(self._file)

    def read(self, member: str, most: int) -> bytes:
        if member not in self._members:
            raise BadShard("the shard has no such member")
        start, size = self._members[member]
        return os.pread(self._file, min(size, most + 1), start)


class PlainFile(NamedTuple):
    """Where a member's content lies, in bytes."""

    name: str
    start: int
    size: int


class _Headers(io.RawIOBase):
    """A file that yields at most `left` more bytes.

    Python's tarfile reads what stands before a member about it (its long name) whole, however much is announced, and
    one inside the other: without a bound a few megabytes become many gigabytes, or an endless recursion.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.left = MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self.left:
            raise ValueError(f"more than {MAX_HEADER_BYTES:,} bytes of headers about a member")
        self.left -= size
        return self._file.read(size)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()


def plain_files(file: BinaryIO) -> Iterator[PlainFile]:
    """The plain files of a tar file, in its order.

    Raises:
        ValueError: the first header is none, or one is larger than headers are, or takes too long.
        OSError: the file can't be read.
    """
    headers, end, deadline = _Headers(file), 0, time.monotonic() + HEADERS_S
    try:
        tar = tarfile.TarFile(fileobj=cast("BinaryIO", headers), encoding="utf-8", errors="surrogateescape")
        while member := tar.next():
            tar.members = []  # type: ignore[attr-defined]  # else all are kept
            tar.pax_headers = {}  # else each member gets a copy of what was said of all before it
            headers.left = MAX_HEADER_BYTES
            if member.size < 0 or member.offset_data <= end or member.issparse() or len(member.name) > MAX_NAME_BYTES:
                raise ValueError("a damaged or sparse member")
            if time.monotonic() > deadline:
                raise ValueError(f"its headers take more than {HEADERS_S:.0f} s")
            end = member.offset_data
            if member.isreg():
                yield PlainFile(member.name, member.offset_data, member.size)
    except (tarfile.TarError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"a damaged header: {error}") from None


def members(file: int | Path) -> dict[str, tuple[int, int]]:
    """Offset and size of each plain file in a tar file.

    Of a file that is damaged or cut short, what comes before that.

    Raises:
        BadShard: it is no tar file, or has too many members.
    """
    found: dict[str, tuple[int, int]] = {}
    try:
        with open(file, "rb", closefd=isinstance(file, Path)) as stream:
            stream.seek(0)
            for name, start, size in plain_files(stream):
                found.setdefault(name.removeprefix("./"), (start, size))
                if len(found) > MAX_MEMBERS:
                    raise BadShard(f"the shard has more than {MAX_MEMBERS:,} members")
    except (OSError, ValueError) as error:
        if not found:
            raise BadShard(f"the shard is no tar file: {error}") from None
    return found


def scratch(content: bytes) -> tuple[Path, bool]:
    """Write a fetched shard to a temporary file."""
    handle, path = tempfile.mkstemp(prefix="tagstream-shard-", suffix=".tar")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    return Path(path), True
