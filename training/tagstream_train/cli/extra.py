"""Check for packages of the extras `train` and `parse`."""

from __future__ import annotations

from importlib.util import find_spec

from workers.errors import not_installed

_PACKAGES = {"train": ("accelerate", "matplotlib", "tensorboard"), "parse": ("spacy",)}


def needs(extra: str = "train") -> None:
    """
    Raises:
        Misconfigured: packages of this extra are not installed.
    """
    missing = [name for name in _PACKAGES[extra] if find_spec(name) is None]
    if missing:
        raise not_installed(missing[0])
