"""Names bundles for people, and checks folders for new ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from schemas.printable import counted
from workers.errors import Misconfigured
from workers.files import require_writable

if TYPE_CHECKING:
    from workers.models.bundle import Bundle


def size_of(bundle: Bundle) -> str:
    count = bundle.size_bytes
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def describe(bundle: Bundle) -> str:
    """A bundle in one line."""
    random = ", RANDOM weights: its answers mean nothing" if bundle.manifest.provenance.random else ""
    labels = f"{counted(bundle.manifest.labels, 'label')}, " if bundle.manifest.labels else ""
    return f"{bundle.folder}: {bundle.name}, {labels}{size_of(bundle)}, digest {bundle.digest[:12]}{random}"


def check_free(out: Path, replace: bool) -> None:
    """Check, before minutes of work, that the bundle may be put there.

    Raises Misconfigured: something is there already, or is no bundle that could be replaced, or the folder above can't
    be written.
    """
    require_writable(out.parent)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "model.json").is_file():
        raise Misconfigured(f"{out} exists and is no bundle; choose another name.")
    if not replace:
        raise Misconfigured(f"{out} exists already; give --replace, or choose another name.")
