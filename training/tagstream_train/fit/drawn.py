"""Unlabelled images of the stream, which bound thresholds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tagstream_train.data.formats import Found, Source
from tagstream_train.data.images import Images, NamedBuckets
from tagstream_train.data.importer import import_dataset
from tagstream_train.fit.data import Side


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
    source = Source("unlabelled", Path(), (), [Found(name) for name in names])
    found = import_dataset([source], folder, store=store).dataset
    return Side([sample for sample in found if sample.sha256 not in known], Images(folder, store=store), [])
