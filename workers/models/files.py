"""Reads the files of models, each bounded before it is read: lists of names, safetensors, and what torch.save wrote."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.errors import LargerThanReserved, Misconfigured
from workers.files import read_regular_file

_CHUNK = 1 << 22
_MAX_LIST_BYTES = 16 * 1024**2
_MAX_HEADER_BYTES = 16 * 1024**2
"""The most bytes of a safetensors header: names and shapes, read as JSON before anything else."""


def sha256_of(path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> str:
    """The sha256 of a file in hex; about a second a gigabyte."""
    digest = hashlib.sha256()
    total = path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            progress(file.tell(), total)
    return digest.hexdigest()


def require_sha256(path: Path, wanted: str | None, progress: Callable[[int, int], None]) -> str:
    """The sha256 of a file in hex. Raises Misconfigured: another than the wanted one."""
    digest = sha256_of(path, progress)
    if wanted is not None and digest != wanted.lower():
        raise Misconfigured(f"{path} has the sha256 {digest} where {wanted} is wanted; download it again.")
    return digest


CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")
"""In a name: no label of any model has them."""


def bytes_of(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file. Raises Misconfigured: it can't be read, is no file, or larger than this."""
    try:
        return content_of(path, max_bytes)
    except OSError as error:
        raise Misconfigured(f"{path} can't be read: {error.strerror}.") from None


def text_of(path: Path, max_bytes: int = _MAX_LIST_BYTES) -> str:
    """The text of a list: UTF-8, with or without a byte order mark.

    Raises Misconfigured: it can't be read, is no such text, or too large.
    """
    try:
        return bytes_of(path, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Misconfigured(f"{path} is not text in UTF-8.") from None


def lines_of(path: Path) -> list[str]:
    """The lines of a list; blanks at their ends belong to the names."""
    return text_of(path).replace("\r\n", "\n").removesuffix("\n").split("\n")


def content_of(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file.

    Raises:
        OSError: it can't be read.
        Misconfigured: it is no file, or larger than this.
    """
    try:
        return read_regular_file(path, max_bytes)
    except LargerThanReserved:
        raise Misconfigured(f"{path} has more than the {max_bytes:,} bytes that it may have.") from None


@contextmanager
def reading_safetensors(path: Path) -> Iterator[None]:
    """Context for reading a safetensors file: bounds its header, and turns its faults into a sentence.

    Raises Misconfigured: it can't be read, or the body raised ValueError.
    """
    from safetensors import SafetensorError

    try:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > _MAX_HEADER_BYTES:
            raise ValueError(f"a header of {header:,} bytes")
        yield
    except OSError as error:
        raise Misconfigured(f"{path} can't be read: {error.strerror or error}.") from None
    except (SafetensorError, ValueError, RecursionError) as error:
        raise Misconfigured(f"{path} is damaged, or no safetensors file ({error}); take another copy of it.") from None


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turn safetensors' errors of a full or read-only disk into OSError."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if (said := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        number = int(said[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def read_saved(path: Path, *, remedy: str) -> object:
    """The content of a file of the operator's own; code in it is refused, its memory is not bounded.

    Tensors stay in the file until they are used, where its format allows it. Raises Misconfigured: it can't be read, or
    holds more than that.
    """
    if not path.is_file():
        raise Misconfigured(f"{path} {'is no file' if path.exists() else 'does not exist'}.")
    import torch  # takes seconds, and most readers of bundles don't need it

    try:
        with path.open("rb") as file:
            archived = file.read(2) == b"PK"  # before version 1.6 torch.save wrote no archives
        return torch.load(path, map_location="cpu", mmap=archived, weights_only=True)
    except Exception as error:  # noqa: BLE001  # torch's unpickler raises whatever a wrong opcode makes Python raise
        said = str(error) or type(error).__name__
        if named := re.search(r"GLOBAL (\S{1,100})", said):
            raise Misconfigured(f"{path} holds more than tensors ({named[1]}); only tensors are read.") from None
        reason = (said.partition("WeightsUnpickler error: ")[2].strip() or said).splitlines()[0].split(". ")[0]
        raise Misconfigured(
            f"{path} ({path.stat().st_size:,} bytes) is no checkpoint that torch can read, or is cut short; "
            f"{remedy} ({reason[:200]})."
        ) from None
