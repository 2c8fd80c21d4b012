"""Captions from a table: image, tab, caption."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from pydantic import ValidationError

from tagstream_train.data.samples import HEADER, MAX_LINE_BYTES, DataSet, Header, Sample
from workers.errors import Misconfigured


class CaptionsFile:
    """A file of `image<TAB>caption` lines, grouped by image.

    Images are named relative to the file's folder, or `s3://bucket/key`.
    """

    labels: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self._path = path
        self.folder = path.parent
        self.header = Header(name=path.stem, samples=0, labels=0)

    def __iter__(self) -> Iterator[Sample]:
        """
        Raises:
            Misconfigured: a line can't be read; with its number.
        """
        for image, lines in groupby(self._lines(), key=lambda line: line[0]):
            yield self._sample(image, tuple(caption for _, caption in lines))

    def _lines(self) -> Iterator[tuple[str, str]]:
        with self._path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                where = f"{self._path}, line {number}"
                if len(line) > MAX_LINE_BYTES:
                    raise Misconfigured(f"{where}: more than {MAX_LINE_BYTES:,} bytes.")
                try:
                    image, tab, caption = line.decode().strip("\r\n").partition("\t")
                except UnicodeDecodeError:
                    raise Misconfigured(f"{where} is not text in UTF-8.") from None
                if not tab or not image:
                    raise Misconfigured(f"{where}: an image, a tab and its caption are expected.")
                yield image, caption

    def _sample(self, image: str, captions: tuple[str, ...]) -> Sample:
        try:
            return Sample(image=image, captions=captions)
        except ValidationError:
            raise Misconfigured(f"{self._path}: {image[:100]!r} can't be the name of an image.") from None


def open_source(path: Path) -> DataSet | CaptionsFile:
    """
    Raises:
        Misconfigured: it is neither a data set nor a file of captions.
    """
    if path.is_dir():
        return DataSet(path)
    if path.name == HEADER:
        return DataSet(path.parent)
    if not path.is_file():
        raise Misconfigured(f"There is no {path}: give a training set's folder, or a file with image, tab, caption.")
    return CaptionsFile(path)
