"""Checkpoints of PyTorch, as archives and in the format before these."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from random import Random

import torch

from tests.fuzz import mutators
from tests.fuzz.fuzzer import Bounds, Target, sentence
from tests.fuzz.parts import Parts
from tests.fuzz.targets.files import Folder
from workers.errors import Misconfigured
from workers.models.ram.importer import read_checkpoint

_folder = Folder()

_NAMES = ("archive/data.pkl", "archive/version", "archive/byteorder", "archive/data/0", "archive/data/1")


def checkpoints() -> Iterator[Parts]:
    """A whole file; or how an archive is written, and its parts in the order of `_NAMES`."""
    content = {"model": {"a": torch.zeros(2, 3), "b": torch.nn.Parameter(torch.ones(4))}, "epoch": 3, "lr": 1e-3}
    for new in (True, False):
        out = io.BytesIO()
        torch.save(content, out, _use_new_zipfile_serialization=new)
        yield (out.getvalue(),)
        if new:
            with zipfile.ZipFile(out) as archive:
                parts = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
            yield (b"stored", *(parts[name.partition("/")[2]] for name in _NAMES))
            yield (b"deflated", *(parts[name.partition("/")[2]] for name in _NAMES))


def damaged(random: Random, parts: Parts) -> Parts:
    """The pickle most of the time."""
    if len(parts) < 3 or random.random() < 0.2:
        return mutators.anything(random, parts)
    return (parts[0], mutators.by_bytes(random, parts[1]), *parts[2:])


def read(parts: Parts) -> str:
    """Tensors that the file has the bytes of, each of which can be read; or a sentence."""
    path = _folder.fresh() / "checkpoint.pth"
    path.write_bytes(parts[0] if len(parts) < 2 else _archive(parts))
    try:
        tensors = read_checkpoint(path)
    except Misconfigured as error:
        return "refused" if "\n" not in sentence(error) else "refused in several lines"
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) <= 2 * path.stat().st_size
    for tensor in tensors.values():
        tensor.to(torch.bfloat16)
    return "read"


def _archive(parts: Parts) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if parts[0] == b"deflated" else zipfile.ZIP_STORED) as archive:
        for name, content in zip(_NAMES, parts[1:], strict=False):
            archive.writestr(name, content)
    return out.getvalue()


TARGETS = (
    Target(
        "checkpoints",
        checkpoints,
        read,
        damaged,
        ("/workers/models/", "/torch/_weights_only", "/torch/serialization.py", "/torch/_utils.py"),
        Bounds(seconds=0.5, seconds_per_mib=8.0, mib=48.0, mib_per_mib=128.0),
        _folder.remove,
    ),
)
