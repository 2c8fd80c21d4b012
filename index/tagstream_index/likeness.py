"""The embedding of a local photo, for `Query(like=…)`. This imports torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from tagstream_index.query import Embedding
from workers.assembly.composition import load_models
from workers.assembly.decoders import intake, limits
from workers.assembly.local_files import LocalFiles, file_job
from workers.assembly.needs import with_models
from workers.errors import Gone, Misconfigured, Rejected, Unavailable
from workers.pipeline.answers import one_each
from workers.pipeline.embedding import Embedder, EmbeddingRole
from workers.settings import Settings
from workers.types import Pixels, Transform


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
            f"the tagger {tagger.name} gives no embeddings: name a bundle of RAM, RAM++ or a "
            "dual encoder (--bundle, TAGSTREAM_TAGGER)"
        )
    tagger.max_batch = 1
    tagger.warm_up()
    if tagger.random_weights:
        note(f"the weights of {tagger.name} are random: what is near means nothing.")
    answers = one_each(tagger, tagger.embed([_pixels(photo, settings, tagger.transform)]), 1)
    found = EmbeddingRole(tagger).finish(answers[0])
    return Embedding(found.space, np.frombuffer(found.data, "<f2"))


def _pixels(photo: Path, settings: Settings, transform: Transform) -> Pixels:
    with closing(intake(settings, [transform], LocalFiles([photo]))) as made:
        try:
            held = made.fetch(file_job(0), limits(settings).max_object_bytes).result()
            return made.decode(held, made.inspect(held).result()).result().pixels[transform]
        except (Rejected, Unavailable) as error:
            raise Misconfigured(f"{photo}: {error.detail}") from error
        except Gone as error:
            raise Misconfigured(f"{photo}: {error}") from error
