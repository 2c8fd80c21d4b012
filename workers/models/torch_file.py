"""Reads what torch.save wrote, as tensors, numbers, texts, and lists and dicts of them: nothing else is unpickled.

torch does not run what a pickle names, but lets it take any memory: parts that were compressed, lists of millions of
lists, and what `pickle_bounds` knows. All of that is refused before torch reads a file.
"""

from __future__ import annotations

import pickle
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import torch

from workers.errors import Misconfigured
from workers.models import pickle_bounds
from workers.models.pickle_bounds import Unbounded

_MAX_PICKLE_BYTES = 8 * 1024**2
"""The longest list of tensors; published ones have less than 1 MB. Unpickled, a byte can become a hundred."""
_OLD_FORMAT = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
"""What a file begins with that torch saved before version 1.6, or with `_use_new_zipfile_serialization=False`."""
_OLD_PICKLES = 5
"""What comes first in the old format: a mark, a version, facts of the machine, the list of the tensors, their keys."""
_UNPICKLER = "WeightsUnpickler error: "
_END, _END64 = 22, 76
"""Bytes of the records at the end of an archive: without a comment, and what stands before in one of more than 4 GB."""


def read(path: Path, *, mapped: bool, remedy: str) -> object:
    """What torch makes of a file that is no larger in memory than on the disk.

    Args:
        mapped: leave tensors in the file until they are used, where its format allows it.
        remedy: what to do about a file that can't be read, for the complaint.

    Raises:
        Misconfigured: it can't be read, or holds more than that.
    """
    if path.exists() and not path.is_dir() and not path.is_file():
        raise Misconfigured(f"{path} is no file.")
    try:
        archived = _kind_of_file(path) == "zip"
        for content in _archived(path) if archived else _in_a_row(path):
            pickle_bounds.check(content)
        return torch.load(path, map_location="cpu", mmap=mapped and archived, weights_only=True)
    except Misconfigured:
        raise
    except Unbounded as error:
        raise Misconfigured(f"{path} {error}, and nothing but tensors is unpickled here.") from None
    except FileNotFoundError:
        raise Misconfigured(f"{path} does not exist.") from None
    except IsADirectoryError:
        raise Misconfigured(f"{path} is a folder; a checkpoint is a file.") from None
    except pickle.UnpicklingError as error:
        said = str(error).rpartition(_UNPICKLER)[2].strip().partition(". ")[0].splitlines()[0]  # then comes advice
        raise Misconfigured(
            f"{path} holds more than tensors, and nothing else is unpickled here ({said[:200]})."
        ) from None
    except Exception as error:  # noqa: BLE001  # torch's unpickler raises whatever a wrong opcode makes Python raise
        size = path.stat().st_size if path.is_file() else 0
        said = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
        raise Misconfigured(
            f"{path} ({size:,} bytes) is no checkpoint that torch can read, or is cut short; {remedy} ({said[:200]})."
        ) from None


def _archived(path: Path) -> Iterator[bytes]:
    """The pickles of an archive. torch.save compresses nothing; what unpacks to more than the file has is not its."""
    size = path.stat().st_size
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if not _has_one_list(file, size):
            raise Misconfigured(f"{path} does not end with the list of its parts, as all that torch.save writes does.")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise Misconfigured(f"{path} has compressed parts, which torch.save never writes.")
        if (unpacked := sum(entry.file_size for entry in entries)) > size:
            raise Misconfigured(f"{path}: its parts claim {unpacked:,} bytes, and the file has {size:,}.")
        for entry in entries:
            if entry.orig_filename.lower().endswith("data.pkl"):  # to torch, names in capitals are the same
                if entry.file_size > _MAX_PICKLE_BYTES:
                    raise _too_long(path, f"{entry.file_size:,} bytes, more than {_MAX_PICKLE_BYTES:,}")
                yield archive.read(entry)


def _has_one_list(file: BinaryIO, size: int) -> bool:
    """Whether the list of an archive's parts ends where the record of its end begins, and nothing comes after that:
    else zipfile looks for the list at one place, and torch at another."""
    file.seek(max(0, size - _END64 - _END))
    records = file.read(_END64 + _END)
    end64, end = records[:-_END].rjust(_END64, b"\0"), records[-_END:]
    length, offset, comment = struct.unpack("<LLH", end[12:])
    ends = size - _END
    if end64[56:60] == b"PK\6\7":  # a record of 64 bits, and one that says where that begins
        ends -= _END64
        length, offset, told = *struct.unpack("<QQ", end64[40:56]), *struct.unpack("<Q", end64[64:72])
        if told != ends:
            return False
    return end[:4] == b"PK\5\6" and not comment and offset + length == ends


def _in_a_row(path: Path) -> Iterator[bytes]:
    """All pickles of a file in the old format, as one."""
    with path.open("rb") as file:
        for _ in range(_OLD_PICKLES):
            for _ in pickletools.genops(file):
                if file.tell() > _MAX_PICKLE_BYTES:
                    raise _too_long(path, f"more than {_MAX_PICKLE_BYTES:,} bytes")
        length = file.tell()
        file.seek(0)
        yield file.read(length)


def _too_long(path: Path, says: str) -> Misconfigured:
    return Misconfigured(f"{path}: the list of its tensors has {says}.")


def _kind_of_file(path: Path) -> Literal["zip", "old"]:
    """How torch.save wrote it: an archive, which can be mapped, or one pickle after the other, which is read whole.

    Raises:
        ValueError: it did not.
    """
    with path.open("rb") as file:
        start = file.read(len(_OLD_FORMAT))
    if start.startswith(b"PK"):
        return "zip"
    if start == _OLD_FORMAT:
        return "old"
    raise ValueError("torch.save did not write it")
