"""Reads what torch.save wrote: tensors, numbers, texts, and lists and dicts of them, and never code."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from workers.errors import Misconfigured


def read(path: Path, *, mapped: bool, remedy: str) -> object:
    """The content of a file of the operator's own; code in it is refused, its memory is not bounded.

    Args:
        mapped: leave tensors in the file until they are used, where its format allows it.
        remedy: what to do about a file that can't be read, for the complaint.

    Raises:
        Misconfigured: it can't be read, or holds more than that.
    """
    if not path.is_file():
        raise Misconfigured(f"{path} {'is no file' if path.exists() else 'does not exist'}.")
    try:
        with path.open("rb") as file:
            archived = file.read(2) == b"PK"  # before version 1.6 torch.save wrote no archives
        return torch.load(path, map_location="cpu", mmap=mapped and archived, weights_only=True)
    except Exception as error:  # noqa: BLE001  # torch's unpickler raises whatever a wrong opcode makes Python raise
        said = str(error) or type(error).__name__
        if named := re.search(r"GLOBAL (\S{1,100})", said):
            raise Misconfigured(
                f"{path} holds more than tensors ({named[1]}), and nothing else is read here."
            ) from None
        reason = (said.partition("WeightsUnpickler error: ")[2].strip() or said).splitlines()[0].split(". ")[0]
        raise Misconfigured(
            f"{path} ({path.stat().st_size:,} bytes) is no checkpoint that torch can read, or is cut short; "
            f"{remedy} ({reason[:200]})."
        ) from None
