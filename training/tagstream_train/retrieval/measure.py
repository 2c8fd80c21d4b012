"""Retrieval: how often images find their captions and captions their images.

An alignment part's vectors rank all pairs (ITC). Then the matching score plus the vectors' similarity re-ranks the best
k of each query, as in BLIP. The rest keeps its rank. Ties count against the model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tagstream_train import memory
from tagstream_train.data.images import BadImage, Images
from tagstream_train.data.importer import no_image
from tagstream_train.data.samples import Sample
from tagstream_train.evaluate import Opened, decoded, pieces
from tagstream_train.features import keep, kept
from tagstream_train.plan import Plan
from tagstream_train.record import Tell
from workers.errors import Misconfigured
from workers.models.bundle import Bundle, cache_folder
from workers.models.ram.alignment import Alignment, ImageParts

DEPTHS = (1, 5, 10)
_AT_ONCE = 1 << 24
"""Similarities in memory at one time."""
_PAIRS = 1024

Both = tuple[tuple[float, ...], tuple[float, ...]]
"""Parts, 0..1, of images with a caption of theirs among the first 1, 5 and 10, and of captions with their image."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Recall by vectors alone and re-ranked, and unusable images."""

    images: int
    captions: int
    contrast: Both
    reranked: Both | None
    skipped: Mapping[str, str]


class _Side(NamedTuple):
    """Ranks (queries,) from 0, best answers (queries, k), and which are right."""

    ranks: Tensor
    best: Tensor
    right: Tensor


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
        k: candidates to re-rank; None: no re-ranking.
        tags: whether the encoder gets the recognised tags.

    Raises:
        Misconfigured: no image with a caption can be used, or the memory does not suffice.
    """
    samples = [sample for sample in data.samples if sample.captions]
    samples = [sample for sample in samples if sample.part == "test"] or samples
    if not samples:
        raise Misconfigured("The data has no captions to compare images with.")
    file = cache_folder() / "features" / f"retrieval-{_content(bundle, alignment, samples, data.images)}.safetensors"
    found = kept(file) or _pictured(bundle, alignment, samples, data.images, batch, threads, tell)
    data.images.hashes.keep()
    said = [samples[row].captions for row in found["rows"].tolist()]
    texts = [each for row in said for each in row]
    if "sentences" not in found:
        found["sentences"] = alignment.sentences(texts)
        keep(file, found)
    images, sentences = ImageParts(*(found[name] for name in ImageParts._fields)), found["sentences"]
    own, owner = torch.arange(len(said)), torch.repeat_interleave(torch.tensor([len(row) for row in said]))
    sides = (
        _nearest(images.units, sentences, own, owner, k or 1),
        _nearest(sentences, images.units, owner, own, k or 1),
    )
    reranked = None if k is None else _reranked(alignment, images, texts, sentences, sides, tags, tell)
    skipped = json.loads(bytes(found["skipped"].tolist()))
    contrast = _recall(sides[0].ranks), _recall(sides[1].ranks)
    return Measured(len(said), len(texts), contrast, reranked, skipped)


def rank(scores: Tensor, right: Tensor) -> Tensor:
    """Number of wrong answers that equal or beat the best right one.

    Args:
        right: bool, of the same shape.
    """
    best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    return (~(scores < best) & ~right).sum(dim=1)


def _nearest(queries: Tensor, keys: Tensor, of_queries: Tensor, of_keys: Tensor, k: int) -> _Side:
    """Compare vectors. Those with the same owner belong together."""
    rows, found = max(1, _AT_ONCE // len(keys)), []
    for some, of_some in zip(torch.split(queries, rows), torch.split(of_queries, rows), strict=True):
        scores, right = some @ keys.T, of_some[:, None] == of_keys
        best = scores.topk(min(k, len(keys))).indices
        found.append((rank(scores, right), best, right.gather(1, best)))
    return _Side(*map(torch.cat, zip(*found, strict=True)))


def _recall(ranks: Tensor) -> tuple[float, ...]:
    return tuple(float((ranks < depth).double().mean()) for depth in DEPTHS)


def _reranked(
    alignment: Alignment,
    images: ImageParts,
    texts: Sequence[str],
    sentences: Tensor,
    sides: tuple[_Side, _Side],
    tags: bool,
    tell: Tell,
) -> Both:
    """Recall with the candidates of both directions re-ranked by matching.

    A pair of both directions is matched once.
    """
    count, (to_text, to_image) = len(texts), sides
    of_image = torch.arange(len(images.units))[:, None] * count + to_text.best
    of_text = to_image.best * count + torch.arange(count)[:, None]
    pairs, scores = torch.unique(torch.cat((of_image.flatten(), of_text.flatten()))), []
    for some in torch.split(pairs, _PAIRS):
        image, text = some // count, some % count
        logits = alignment.match(images, texts, torch.stack((image, text), dim=1), tags=tags)
        scores.append(logits + (images.units[image] * sentences[text]).sum(dim=1))
        tell("matching pairs", sum(map(len, scores)), len(pairs))
    known = torch.cat(scores)

    def recall(side: _Side, keys: Tensor) -> tuple[float, ...]:
        anew = rank(known[torch.searchsorted(pairs, keys)], side.right)
        return _recall(torch.where(side.right.any(dim=1), anew, side.ranks))

    return recall(to_text, of_image), recall(to_image, of_text)


def _pictured(
    bundle: Bundle,
    alignment: Alignment,
    samples: Sequence[Sample],
    images: Images,
    batch: int,
    threads: int,
    tell: Tell,
) -> dict[str, Tensor]:
    """Encode usable images.

    Returns:
        The tensors `units`, `tokens` (fp16) and `tags`, the samples' numbers `rows`, and `skipped` as JSON.
    """
    skipped: dict[str, str] = {}
    rows: list[str] = []
    made: list[ImageParts] = []
    for piece in pieces(decoded(samples, images, bundle.transform, threads=threads, skipped=skipped), batch):
        parts = alignment.images([pixels for _, pixels in piece])
        if not made:
            wanted = 4 * len(samples) * parts.tokens[0].numel()
            what = f"The tokens of {len(samples):,} images take {{}}"
            memory.check_room(wanted, Plan(epochs=1, device="cpu"), what, "measure with fewer images")
        made.append(parts._replace(tokens=parts.tokens.half()))
        rows += [sample.image for sample, _ in piece]
        tell("encoding images", len(rows) + len(skipped), len(samples))
    if not made:
        raise no_image(skipped)
    numbers = {sample.image: number for number, sample in enumerate(samples)}
    return {
        "rows": torch.tensor([numbers[name] for name in rows]),
        **{name: torch.cat([getattr(parts, name) for parts in made]) for name in ImageParts._fields},
        "skipped": torch.tensor(list(json.dumps(skipped).encode()), dtype=torch.uint8),
    }


def _content(bundle: Bundle, alignment: Alignment, samples: Sequence[Sample], images: Images) -> str:
    """A hash of all that a set's tensors depend on."""
    digest = hashlib.sha256(f"{bundle.digest} {alignment.digest}".encode())
    for sample in samples:
        try:
            content = images.sha256(sample.image)
        except BadImage as bad:
            content = str(bad)
        digest.update(json.dumps([content, sample.captions]).encode())
    return digest.hexdigest()
