"""Bundles that tests make, kept in build/ from run to run while the code that makes them stays the same."""

import hashlib
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from workers.models.bundle import Bundle
from workers.models.compact import compact_bundle

_CHECKOUT = Path(__file__).parents[2]
_STORE = _CHECKOUT / "build" / "kept"
_DAY_S = 86_400


def kept(folder: Path, recipe: object, make: Callable[[Path], object]) -> None:
    """Fill a folder by `make`, which is called only for a recipe that is not on the disk."""
    store = _STORE / _sources()
    one = store / hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]
    if not one.exists():
        store.mkdir(parents=True, exist_ok=True)
        _sweep(store)
        with TemporaryDirectory(dir=store) as new:
            make(Path(new, "made"))
            with suppress(OSError):  # another process was faster
                Path(new, "made").rename(one)
    shutil.copytree(one, folder, dirs_exist_ok=True)


def kept_compact(cache_dir: Path) -> Bundle:
    """The compact bundle in a cache folder."""
    kept(cache_dir, "compact", compact_bundle)
    return compact_bundle(cache_dir)


@cache
def _sources() -> str:
    """A hash of the code that makes bundles."""
    ours = [_CHECKOUT / "workers" / "types.py", *sorted((_CHECKOUT / "workers" / "models").rglob("*.py"))]
    content = b"".join(file.read_bytes() for file in ours)
    return hashlib.sha256(content + torch.__version__.encode()).hexdigest()[:16]


def _sweep(store: Path) -> None:
    """Remove what other code made more than a day ago."""
    for other in store.parent.iterdir():
        if other != store and time.time() - other.stat().st_mtime > _DAY_S:
            shutil.rmtree(other, ignore_errors=True)
