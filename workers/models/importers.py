"""Makes bundles of files that installed packages know, such as wheels.

A package adds an importer by an entry point of the group `tagstream.importers`; its value is a function as `Importer`.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.files import require_sha256
from workers.models.pull import Progress

GROUP = "tagstream.importers"


class Importer(Protocol):
    def __call__(self, file: Path, out: Path, *, progress: Progress, replace_existing: bool) -> Bundle | None:
        """Make a bundle of a file; None: the file is not one of this importer's.

        Args:
            file: any file at all; ask its name, size or sha256 before reading it whole.
            out: the bundle's folder, for `Bundle.write`.

        Raises:
            Misconfigured: the file is this importer's and damaged, or of another version. Nothing is left behind.
        """


def import_added(
    file: Path, out: Path, *, sha256: str | None, progress: Progress, replace_existing: bool
) -> Bundle | None:
    """The bundle of the first importer that knows the file, or None.

    Raises:
        Misconfigured: no such file, another sha256, a package that does not import, or as `Importer`.
    """
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    if not points:
        return None
    if not file.is_file():
        raise Misconfigured(f"{file} is no file.")
    if sha256 is not None:
        require_sha256(file, sha256, partial(progress, "reading the file"))
    for point in points:
        try:
            importer: Importer = point.load()
        except ImportError as error:
            raise Misconfigured(f"The importer {point.name!r} ({point.value}) does not import: {error}.") from error
        if (made := importer(file, out, progress=progress, replace_existing=replace_existing)) is not None:
            return made
    return None
