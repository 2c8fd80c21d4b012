"""Carry a set's images into a derived set."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tagstream_train.data.images import S3, BadImage, below
from tagstream_train.data.samples import Sample
from tagstream_train.data.shards import file_of
from workers.errors import Misconfigured


class Carrier:
    """Links image files into another folder, or copies them.

    Hard links cost no space, and each set can be moved or deleted without the other. Objects in a bucket stay there.
    """

    def __init__(self, source: Path, target: Path) -> None:
        self._source, self._target = source.resolve(), target.resolve()
        self.missing: list[str] = []
        """Names that have no file; training skips and reports them."""

    def carry(self, sample: Sample) -> None:
        """
        Raises:
            Misconfigured: the folder can't be written to.
        """
        if self._source == self._target or sample.image.startswith(S3):
            return
        if (source := self._file(sample)) is None:
            self.missing.append(sample.image)
        else:
            link(source, self._target / file_of(sample.image))

    def _file(self, sample: Sample) -> Path | None:
        try:
            path = below(self._source, file_of(sample.image))
        except BadImage:
            return None
        return path if path.is_file() else None


def link(path: Path, target: Path) -> None:
    """Link or copy a file, unless the target exists.

    Raises:
        Misconfigured: it can't be.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except FileExistsError:
        pass
    except OSError:  # another file system, or one without links
        try:
            shutil.copyfile(path, target)
        except OSError as error:
            raise Misconfigured(f"{path} can't be copied to {target}: {error.strerror}.") from None
