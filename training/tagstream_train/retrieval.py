"""Retrieval: how often images find their captions and captions their images.

All are compared by an alignment part's vectors first (ITC); then the best k of each are ordered anew by the matching
score and the vectors' similarity together, as BLIP does. The rest keeps its place, and ties count against the model.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tagstream_train import memory
from tagstream_train.data.images import BadImage, Images
from tagstream_train.data.samples import Sample
from tagstream_train.evaluate import Opened, decoded, no_image, pieces
from tagstream_train.heads import keep
from tagstream_train.plan import Plan
from tagstream_train.record import Tell
from workers.errors import Misconfigured
from workers.models.bundle import Bundle, cache_folder
from workers.models.files import reading_safetensors
from workers.models.ram.alignment import Alignment, ImageParts, padded

DEPTHS = (1, 5, 10)
_AT_ONCE = 1 << 26
"""Similarities that are held together."""

Recall = tuple[float, ...]
"""Parts, 0..1, of queries with a right answer among the first 1, 5 and 10."""
Both = tuple[Recall, Recall]
"""Of images that look for their captions, and of captions that look for their image."""
Ranked = Sequence[tuple[int, Tensor]]
"""Each query's rank, from 0, and its best k answers."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Recall by vectors alone and re-ranked, seconds by stage, and unusable images."""

    images: int
    captions: int
    contrast: Both
    reranked: Both | None
    seconds: Mapping[str, float]
    skipped: Mapping[str, str]


class _Encoded:
    """Images with their captions, image by image: what `_pictured` gives, and `sentences`."""

    def __init__(self, found: Mapping[str, Tensor], captions: Sequence[Sequence[str]]) -> None:
        tags = tuple(tuple(row[row >= 0].tolist()) for row in found["tags"])
        self.parts = ImageParts(found["units"], found["tokens"], tags)
        self.sentences = found["sentences"]
        self.captions = [each for row in captions for each in row]
        sizes = [len(row) for row in captions]
        self.captions_of = torch.split(torch.arange(len(self.captions)), sizes)
        self.image_of = torch.split(torch.repeat_interleave(torch.tensor(sizes)), 1)


def measure(
    bundle: Bundle,
    alignment: Alignment,
    data: Opened,
    *,
    k: int | None,
    tags: bool,
    batch: int,
    threads: int,
    tell: Tell,
) -> Measured:
    """Recall in both directions, on the part `test` where there is one.

    Args:
        k: candidates that are ordered anew; None: none.
        tags: whether the encoder is shown the recognised ones.

    Raises:
        Misconfigured: no image with a caption can be used, or the memory does not suffice.
    """
    samples = [sample for sample in data.samples if sample.captions]
    samples = [sample for sample in samples if sample.part == "test"] or samples
    if not samples:
        raise Misconfigured("The data has no captions to compare images with.")
    seconds: dict[str, float] = {}
    file = cache_folder() / "features" / f"retrieval-{_content(bundle, alignment, samples, data.images)}.safetensors"
    with _timed(seconds, "images"):
        found = _kept(file) or _pictured(bundle, alignment, samples, data.images, batch, threads, tell)
    captions = [samples[row].captions for row in found["rows"].tolist()]
    with _timed(seconds, "sentences"):
        if "sentences" not in found:
            found["sentences"] = alignment.sentences([each for row in captions for each in row])
            keep(file, found)
    encoded = _Encoded(found, captions)
    with _timed(seconds, "ITC"):
        texts = list(_nearest(encoded.parts.units, encoded.sentences, encoded.captions_of, k or 1))
        images = list(_nearest(encoded.sentences, encoded.parts.units, encoded.image_of, k or 1))
    contrast = _recall(rank for rank, _ in texts), _recall(rank for rank, _ in images)
    with _timed(seconds, "re-ranking"):
        reranked = None if k is None else _reranked(alignment, encoded, texts, images, tags, tell)
    skipped = json.loads(bytes(found["skipped"].tolist()))
    return Measured(len(texts), len(images), contrast, reranked, seconds, skipped)


def rank(scores: Tensor, right: Tensor) -> int:
    """How many others stand before the best of the right ones."""
    best = scores[right].max()
    return int((~(scores < best)).sum() - (~(scores[right] < best)).sum())


def _nearest(queries: Tensor, keys: Tensor, rights: Sequence[Tensor], k: int) -> Iterator[tuple[int, Tensor]]:
    rows = max(1, _AT_ONCE // len(keys))
    for start in range(0, len(queries), rows):
        for place, scores in enumerate(queries[start : start + rows] @ keys.T, start):
            yield rank(scores, rights[place]), scores.topk(min(k, len(keys))).indices


def _recall(ranks: Iterable[int]) -> Recall:
    found = torch.tensor(list(ranks))
    return tuple(float((found < depth).double().mean()) for depth in DEPTHS)


def _reranked(alignment: Alignment, encoded: _Encoded, texts: Ranked, images: Ranked, tags: bool, tell: Tell) -> Both:
    """Recall when the candidates of both directions are ordered by matching.

    A pair that both want is matched once, and the pairs of an image together.
    """
    count = len(images)
    of_image = [image * count + best for image, (_, best) in enumerate(texts)]
    of_text = [best * count + text for text, (_, best) in enumerate(images)]
    pairs = torch.unique(torch.cat(of_image + of_text))
    scores, done = torch.empty(len(pairs)), 0
    for image, group in enumerate(torch.split(pairs, torch.bincount(pairs // count).tolist())):
        one, wanted = encoded.parts.select([image]), group % count
        one = replace(one, tokens=one.tokens.float())
        logits = alignment.match(one, encoded.captions, torch.stack((wanted * 0, wanted), dim=1), tags=tags)
        scores[done : done + len(group)] = logits + encoded.sentences[wanted] @ one.units[0]
        done += len(group)
        tell("matching pairs", done, len(pairs))

    def ranks(ranked: Ranked, keys: Sequence[Tensor], rights: Sequence[Tensor]) -> Iterator[int]:
        for (before, best), key, right in zip(ranked, keys, rights, strict=True):
            inside = torch.isin(best, right).nonzero()[:, 0]
            yield rank(scores[torch.searchsorted(pairs, key)], inside) if len(inside) else before

    return _recall(ranks(texts, of_image, encoded.captions_of)), _recall(ranks(images, of_text, encoded.image_of))


def _pictured(
    bundle: Bundle,
    alignment: Alignment,
    samples: Sequence[Sample],
    images: Images,
    batch: int,
    threads: int,
    tell: Tell,
) -> dict[str, Tensor]:
    """Encode usable images: what is kept of a set, but `sentences`.

    `units`, `tokens` in fp16, `tags`, the samples' numbers `rows`, and what is `skipped`, as JSON.
    """
    skipped: dict[str, str] = {}
    rows: list[str] = []
    made: list[ImageParts] = []
    for piece in pieces(decoded(samples, images, bundle.transform, threads=threads, skipped=skipped), batch):
        parts = alignment.images([pixels for _, pixels in piece])
        _check_memory(len(samples), parts.tokens)
        made.append(replace(parts, tokens=parts.tokens.half()))
        rows += [sample.image for sample, _ in piece]
        tell("encoding images", len(rows) + len(skipped), len(samples))
    if not made:
        raise no_image(skipped)
    numbers = {sample.image: number for number, sample in enumerate(samples)}
    return {
        "rows": torch.tensor([numbers[name] for name in rows]),
        "units": torch.cat([parts.units for parts in made]),
        "tokens": torch.cat([parts.tokens for parts in made]),
        "tags": padded([tags for parts in made for tags in parts.tags]),
        "skipped": torch.tensor(list(json.dumps(skipped).encode()), dtype=torch.uint8),
    }


def _check_memory(images: int, tokens: Tensor) -> None:
    wanted, free = 4 * images * tokens[0].numel(), memory.available(Plan(epochs=1, device="cpu"))
    if free is not None and wanted > free:
        raise Misconfigured(
            f"The tokens of {images:,} images take {wanted / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: measure "
            "with fewer images."
        )


def _content(bundle: Bundle, alignment: Alignment, samples: Sequence[Sample], images: Images) -> str:
    """A hash of all that a set's tensors depend on."""
    digest = hashlib.sha256(f"{bundle.digest} {alignment.digest}".encode())
    for sample in samples:
        try:
            content = sample.sha256 or hashlib.sha256(images.read(sample.image)).hexdigest()
        except BadImage as bad:
            content = str(bad)
        digest.update(json.dumps([content, sample.captions]).encode())
    return digest.hexdigest()


def _kept(file: Path) -> dict[str, Tensor] | None:
    """What an earlier run kept; None if it is missing or damaged."""
    with suppress(Misconfigured), reading_safetensors(file):
        return load_file(file)
    return None


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - started
