"""Unlabelled images of the stream: a draw from the enriched topic."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from schemas.enriched_image import EnrichedImage, Retraction, read_output
from tagstream_train.data.formats import Found, Source
from tagstream_train.data.images import Images, NamedBuckets, name_of
from tagstream_train.data.importer import import_dataset
from tagstream_train.fit.data import Side

MOST = 2_000


class Draw:
    """A uniform draw of at most `MOST` images, in bounded memory: those whose keys have the smallest hashes."""

    def __init__(self) -> None:
        self._names: dict[bytes, str] = {}

    def take(self, value: bytes | None) -> None:
        """Add one record of the topic.

        Raises:
            ValueError: it is no outcome.
        """
        output = None if value is None else read_output(value)
        if not isinstance(output, EnrichedImage | Retraction):
            return
        place = hashlib.sha256(output.message_key).digest()
        if isinstance(output, Retraction):
            self._names.pop(place, None)
            return
        read = output.source.read or output.source
        self._names[place] = name_of(read.bucket, read.key)
        if len(self._names) > 2 * MOST:
            self._names = dict(sorted(self._names.items())[:MOST])

    @property
    def names(self) -> list[str]:
        return [name for _, name in sorted(self._names.items())[:MOST]]


def drawn_side(names: Sequence[str], folder: Path, store: NamedBuckets | None, known: frozenset[str]) -> Side:
    """The drawn images that can be used.

    Args:
        folder: in the run's folder, to be written anew.
        known: hashes of the training set's images, which are left out.

    Raises:
        Misconfigured: none can be used.
        Unavailable: the object store does not answer.
    """
    shutil.rmtree(folder, ignore_errors=True)
    source = Source("the enriched topic", Path(), (), [Found(name) for name in names])
    found = import_dataset([source], folder, store=store).dataset
    return Side([sample for sample in found if sample.sha256 not in known], Images(folder, store=store), [])
