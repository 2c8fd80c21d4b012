"""WebDataset shards: tar files with many images, each with its JSON document.

An image is named as a path through its shard: `shards/000017.tar/000123456.jpg`.
"""

from __future__ import annotations

import io
import os
import tarfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from errno import EINVAL
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, cast

from workers.errors import Misconfigured

SUFFIX: Final = ".tar/"
MAX_MEMBERS = 2_000_000
MAX_NAME_BYTES: Final = 4096
MAX_HEADER_BYTES: Final = 6 * 1024
"""The most bytes of one member's headers: a long name or pax attributes, and the header itself."""
HEADERS_S = 600.0
"""The longest that the headers of one shard may take."""

_OPEN = 8


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


class Shards:
    """Reads shards' members, and keeps some shards open. Thread-safe.

    Args:
        opened: the file of a shard by its name.
    """

    def __init__(self, opened: Callable[[str], BinaryIO]) -> None:
        def shard(name: str) -> _Shard:
            try:
                return _Shard(opened(name))
            except OSError as error:
                raise BadShard(f"the shard can't be read: {error.strerror}") from None

        self._shard = lru_cache(_OPEN)(shard)

    def read(self, place: Place, most: int) -> bytes:
        """A member's content, at most one byte more than `most`.

        Raises:
            BadShard: there is no such member, or it is no tar file.
            Whatever `opened` raises.
        """
        shard = self._shard(place.shard)
        if place.member not in shard.members:
            raise BadShard("the shard has no such member")
        start, size = shard.members[place.member]
        return os.pread(shard.file.fileno(), min(size, most + 1), start)

    def members(self, name: str) -> Iterable[str]:
        """A shard's members. Raises as `read`."""
        return self._shard(name).members


class _Shard:
    """One open tar file and its members' places; closed when it is read no more."""

    def __init__(self, file: BinaryIO) -> None:
        weakref.finalize(self, file.close)
        self.file, self.members = file, members(file)


def plain_file(path: Path) -> BinaryIO:
    """An opened file.

    Raises:
        OSError: it is unreadable, or no plain file: a pipe could block, and a device never end.
    """
    if path.exists() and not path.is_file():
        raise OSError(EINVAL, "it is no file")
    return path.open("rb")


class PlainFile(NamedTuple):
    """Where a member's content lies, in bytes."""

    name: str
    start: int
    size: int


class _Headers(io.RawIOBase):
    """A file that yields at most `left` more bytes.

    Python's tarfile reads the headers of a member (its long name) whole, whatever size they announce, and nested ones
    recursively. Without a bound a few megabytes become many gigabytes, or an endless recursion.
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
        ValueError: an invalid first header, a header that is too large, or headers that take too long.
        OSError: the file can't be read.
    """
    headers, end, deadline = _Headers(file), 0, time.monotonic() + HEADERS_S
    try:
        tar = tarfile.TarFile(fileobj=cast("BinaryIO", headers), encoding="utf-8", errors="surrogateescape")
        while member := tar.next():
            tar.members = []  # type: ignore[attr-defined]  # else all are kept
            tar.pax_headers = {}  # else each member gets a copy of all earlier headers
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


def members(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Offset and size of each plain file in a tar file.

    A damaged or truncated file gives the members before the damage.

    Raises:
        BadShard: it is no tar file, or has too many members.
    """
    found: dict[str, tuple[int, int]] = {}
    try:
        for name, start, size in plain_files(file):
            found.setdefault(name.removeprefix("./"), (start, size))
            if len(found) > MAX_MEMBERS:
                raise BadShard(f"the shard has more than {MAX_MEMBERS:,} members")
    except (OSError, ValueError) as error:
        if not found:
            raise BadShard(f"the shard is no tar file: {error}") from None
    return found
