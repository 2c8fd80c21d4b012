"""Reads the headers of a tar file: where each plain file begins. Time and memory are in proportion to the headers.

Python's tarfile reads what stands before a member about it (its long name) whole, however much is announced, and one
inside the other; so a few megabytes can become many gigabytes, or an endless recursion.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

MAX_NAME_BYTES: Final = 4096
MAX_ABOUT_BYTES: Final = 64 * 1024
"""What may stand before a member about it: its name, its size, and attributes that are not read here."""

_BLOCK: Final = 512
_PLAIN: Final = (b"0", b"\0", b"7")
_WITHOUT_CONTENT: Final = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Links, devices, folders, pipes: whatever size they tell."""
_LONG_NAME, _LONG_LINK, _ABOUT_THE_NEXT, _ABOUT_ALL, _SPARSE = b"L", b"K", b"x", b"g", b"S"


class PlainFile(NamedTuple):
    """Where a member's content lies, in bytes."""

    name: str
    start: int
    size: int


def plain_files(file: BinaryIO) -> Iterator[PlainFile]:
    """The plain files of a tar file (ustar, pax or GNU's), in its order; what is sparse is none.

    Raises:
        ValueError: a header is damaged, or larger than headers are. What came before it is good.
        OSError: the file can't be read.
    """
    about: dict[str, str] = {}
    for kind, name, size in _headers(file):
        if kind in (_LONG_NAME, _LONG_LINK, _ABOUT_THE_NEXT, _ABOUT_ALL):
            if size > MAX_ABOUT_BYTES:
                raise ValueError(f"{size:,} bytes about a member")
            content = file.read(_padded(size))[:size]
            if kind == _LONG_NAME:
                about["path"] = _text(content)
            elif kind == _ABOUT_THE_NEXT:
                about |= _about(content)
            continue
        size = _decimal(about["size"]) if "size" in about else size
        name = about.get("path", name)
        if len(name) > MAX_NAME_BYTES:
            raise ValueError(f"a name of {len(name):,} characters")
        if kind == _SPARSE or "sparse" in about:
            raise ValueError("a sparse member")
        start = file.tell()
        if kind in _PLAIN and not (kind == b"\0" and name.endswith("/")):
            yield PlainFile(name, start, size)
        if kind not in _WITHOUT_CONTENT:
            file.seek(start + _padded(size))
        about = {}


def _headers(file: BinaryIO) -> Iterator[tuple[bytes, str, int]]:
    """From where the file stands each time, up to the empty block behind the last member."""
    block = file.read(_BLOCK)
    if not block:
        raise ValueError("it is empty")
    while any(block):
        yield _header(block)
        block = file.read(_BLOCK)


def _header(block: bytes) -> tuple[bytes, str, int]:
    """Kind, name and size."""
    if len(block) < _BLOCK:
        raise ValueError("a header that is cut short")
    told = _number(block[148:156])
    summed = block[:148] + b" " * 8 + block[156:]
    total = sum(summed)
    if told != total and told != total - 256 * sum(byte > 127 for byte in summed):  # old programs took bytes as signed
        raise ValueError("a header with another checksum")
    name, prefix = _text(block[:100]), _text(block[345:500])
    ustar = block[257:263] == b"ustar\0"
    return block[156:157], f"{prefix}/{name}" if ustar and prefix else name, _number(block[124:136])


def _number(field: bytes) -> int:
    """Octal digits; or a large number in binary, as GNU's tar writes it."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip() or b"0"
    if not digits.isdigit():
        raise ValueError("a number without digits")
    return int(digits, 8)


def _about(content: bytes) -> dict[str, str]:
    """What is read here of records as `27 path=photos/000123.jpg` and a line feed: each tells its own length."""
    found = {}
    at = 0
    while at < len(content):
        digits = content[at : at + 10].partition(b" ")[0]
        end = at + _decimal(digits.decode("ascii"))
        key, equals, value = content[at + len(digits) + 1 : end].partition(b"=")
        if end > len(content) or not equals or not value.endswith(b"\n"):
            raise ValueError("a damaged record about a member")
        if key in (b"path", b"size"):
            found[key.decode()] = _text(value[:-1])
        elif key.startswith(b"GNU.sparse"):
            found["sparse"] = ""
        at = end
    return found


def _decimal(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("a length that is no number")
    return int(text)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
