"""What only `tagstream[train]` installs."""

from __future__ import annotations

from importlib.util import find_spec

from workers.errors import Misconfigured

_PACKAGES = {"train": ("accelerate", "matplotlib", "tensorboard", "webdataset"), "parse": ("spacy",)}


def needs(extra: str = "train") -> None:
    """
    Raises:
        Misconfigured: packages of this extra are not installed.
    """
    missing = [name for name in _PACKAGES[extra] if find_spec(name) is None]
    if missing:
        raise Misconfigured(f"{missing[0]} is not installed: pip install 'tagstream[{extra}]'")
