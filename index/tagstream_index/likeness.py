"""The embedding of a local photo, for `Query(like=…)`. This imports torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from tagstream_index.query import Embedding
from workers.assembly.composition import load_models
from workers.assembly.local_files import FailedFile, LocalFiles, answers_of
from workers.assembly.needs import with_models
from workers.errors import Misconfigured
from workers.pipeline.embedding import Embedder, EmbeddingRole


def embedding_of(photo: Path, bundle: str | None, note: Callable[[str], object]) -> Embedding:
    """The embedding of a photo, by the worker's decoders, limits and model.

    Args:
        bundle: folder of a tagger that gives embeddings; None: TAGSTREAM_TAGGER.
        note: gets a sentence if the weights are random.

    Raises:
        Misconfigured: the photo can't be read or decoded, or the tagger does not load or gives no embeddings.
        Broken: the device does not start.
    """
    if not photo.is_file():
        raise Misconfigured(f"{photo}: there is no such file")
    settings = with_models(bundle, "none", None)
    tagger = load_models(settings)["tagger"]
    if not isinstance(tagger, Embedder):
        raise Misconfigured(
            f"the tagger {tagger.name} gives no embeddings: name compact, a bundle of RAM or "
            "RAM++ or a dual encoder (--bundle, TAGSTREAM_TAGGER)"
        )
    tagger.max_batch = 1
    tagger.warm_up()
    if tagger.random_weights:
        note(f"the weights of {tagger.name} are random: distances mean nothing.")
    reader = SimpleNamespace(name=tagger.name, transform=tagger.transform, forward=tagger.embed)
    [answer] = answers_of(settings, LocalFiles([photo]), reader)
    if isinstance(answer, FailedFile):
        raise Misconfigured(f"{photo}: {answer.detail}")
    found = EmbeddingRole(tagger).finish(answer[1])
    return Embedding(found.space, np.frombuffer(found.data, "<f2"))
