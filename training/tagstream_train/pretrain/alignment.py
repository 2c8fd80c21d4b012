"""Tag2Text's third task in training: image-text contrast (itc) and image-text matching (itm), as in ALBEF and BLIP.

itc compares a batch's images and texts, each as one vector. The candidates are vectors by momentum copies of the
networks, for the batch and, from queues, for earlier batches. itm classifies pairs as matching or not: right pairs, and
hard wrong pairs of the batch. Candidates and wrong pairs come from all processes.

The papers: Align before Fuse (arXiv:2107.07651), BLIP (arXiv:2201.12086), Tag2Text (arXiv:2303.05657).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from tagstream_train.data.samples import Sample, hash_of
from tagstream_train.pretrain.start import drawn_like
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.ram.alignment import MATCHES, MOST_TAGS, Aligned, AlignmentPart, has_alignment, read_part
from workers.models.ram.layers import exact
from workers.models.ram.networks import LabelScorer, Tag2Text

QUEUE = 57_600
MOMENTUM = 0.995
ALPHA = 0.4
"""Weight of the copies' opinion in the targets of itc, after the ramp."""
RAMP_EPOCHS = 2
COOLEST, WARMEST = 0.001, 0.5
SMOOTH = 1e-4
"""Added to the chance of each wrong pair; 0 in training for retrieval."""
LENGTH = 30
"""The most tokens of a caption in pre-training."""
LONGEST = 40
"""Tokens that texts are padded to where processes exchange them."""


def new_part(network: LabelScorer, bundle: Bundle | None, *, seed: int, tags: bool) -> AlignmentPart:
    """The initial alignment part: the bundle's, or a fresh one.

    A fresh one starts with the tag encoder's self-attention.

    Raises:
        Misconfigured: the network is no Tag2Text, or the bundle's part is of another kind or size.
    """
    if not isinstance(network, Tag2Text):
        raise Misconfigured("The objectives itc and itm are Tag2Text's: leave them out, or train --model tag2text.")
    part = AlignmentPart(network.config, tags=tags)
    given = read_part(bundle).state_dict() if bundle is not None and has_alignment(bundle) else None
    if given is None:
        given = drawn_like(part, network.config, seed)
        own = network.text.tag_encoder.attention.state_dict()  # type: ignore[attr-defined]
        given |= {f"attention.{name}": tensor.clone() for name, tensor in own.items()}
    elif {name: t.shape for name, t in given.items()} != {name: t.shape for name, t in part.state_dict().items()}:
        raise Misconfigured(
            f"{bundle} has an alignment part of another size, or {'without' if tags else 'with'} tags: "
            f"set tags to {'none' if tags else 'guided'!r} under [alignment] in the run's file, or start from another."
        )
    part.load_state_dict(given)
    return part.train().requires_grad_(True)


def queue_of(wanted: int | None, images: int, step: int) -> int:
    """The queues' length; by default 57,600, or half of fewer images.

    Args:
        step: pairs of one batch in all processes.

    Raises:
        Misconfigured: wrong pairs need two images a batch, and a queue whole batches.
    """
    if wanted is not None and wanted % step:
        raise Misconfigured(
            f"A queue of {wanted:,} pairs is no multiple of the {step:,} images of a batch in all processes: set queue "
            f"under [alignment] in the run's file to {max(1, wanted // step) * step:,}, or leave it out."
        )
    return wanted or max(1, min(QUEUE, images // 2) // step) * step


def check_pairs(samples: Sequence[Sample], batch: int) -> None:
    """
    Raises:
        Misconfigured: batches of one image, or images without captions or hashes.
    """
    if batch < 2:
        raise Misconfigured("itm needs a wrong pair in each batch: a batch of 1 has none. Set batch to 2 or more.")
    for sample in samples:
        hash_of(sample)
    without = [sample.image for sample in samples if not sample.captions]
    if without:
        raise Misconfigured(
            f"{len(without):,} of {len(samples):,} images have no caption, e.g. {without[0]!r}: itc and itm need one "
            "for each. Leave these images out, or add captions with `tagstream train generate`."
        )


class Contrast(nn.Module):
    """The objectives itc and itm, with copies and queues as buffers.

    Args:
        queue: kept pairs of all processes.
        ramp: batches until the copies' opinion has its full weight.
        smooth: see `SMOOTH`.
        accumulation: batches in one step; the copies move once a step.
    """

    image_queue: Tensor
    text_queue: Tensor
    key_queue: Tensor
    pairs: Tensor

    def __init__(
        self, aligned: Aligned, *, queue: int, ramp: float, seed: int, smooth: float = SMOOTH, accumulation: int = 1
    ) -> None:
        super().__init__()
        self.aligned = aligned
        self.copies = _followers(aligned)
        self._ramp, self._smooth, self._accumulation = ramp, smooth, accumulation
        generator = torch.Generator().manual_seed(seed)
        dimensions = aligned.part.text_proj.out_features
        for name in ("image_queue", "text_queue"):
            self.register_buffer(name, F.normalize(torch.randn(queue, dimensions, generator=generator), dim=1))
        self.register_buffer("key_queue", torch.full((queue,), -1))
        self.register_buffer("pairs", torch.zeros((), dtype=torch.int64))

    def losses(
        self, images: Tensor, tokens: Tensor, ids: Tensor, mask: Tensor, tags: Tensor, keys: Tensor
    ) -> dict[str, Tensor]:
        """itc and itm of pairs, which then join the queues.

        Args:
            tokens: (n, 1 + tokens, width), the network's for these images.
            ids, mask: (n, length) of their captions (`sentence_tokens`).
            tags: (n, at most 40) label ids, -1 behind the last.
            keys: (n,) int64, at least 0; pairs with the same key belong together.

        Raises:
            Misconfigured: all pairs belong together, so that none is wrong.
        """
        with torch.no_grad():
            self.aligned.part.temperature.clamp_(COOLEST, WARMEST)
            all_keys = _everyone(keys)
            if int(self.pairs) // len(all_keys) % self._accumulation == 0:
                self._follow()
            image_copy = exact(self.copies.image_units(self.copies.network.encode(images)))
            text_copy = exact(self.copies.text_units(ids, mask))
            more = (_everyone(image_copy), _everyone(text_copy))
            first = _rank() * len(images)
            own = torch.arange(first, first + len(images), device=tokens.device)
            image_all, text_all = torch.cat((more[0], self.image_queue)), torch.cat((more[1], self.text_queue))
            same = all_keys[own][:, None] == torch.cat((all_keys, self.key_queue))
            alpha = ALPHA * min(1.0, float(self.pairs) / (len(all_keys) * self._ramp))
        image, text = exact(self.aligned.image_units(tokens)), exact(self.aligned.text_units(ids, mask))
        temperature = self.aligned.part.temperature
        to_text, to_image = image @ text_all.T / temperature, text @ image_all.T / temperature
        with torch.no_grad():
            of_image = soft_targets(image_copy @ text_all.T / temperature, same, alpha)
            of_text = soft_targets(text_copy @ image_all.T / temperature, same, alpha)
            near = same[:, : len(all_keys)]
            wrong_texts = hard_negatives(to_text[:, : len(all_keys)], near, self._smooth)
            wrong_images = hard_negatives(to_image[:, : len(all_keys)], near, self._smooth)
        itc = (F.cross_entropy(to_text, of_image) + F.cross_entropy(to_image, of_text)) / 2
        itm = self._matching(tokens, ids, mask, tags, own, wrong_images, wrong_texts)
        self._remember(*more, all_keys)
        return {"itc": itc, "itm": itm}

    def _matching(
        self,
        tokens: Tensor,
        ids: Tensor,
        mask: Tensor,
        tags: Tensor,
        own: Tensor,
        wrong_images: Tensor,
        wrong_texts: Tensor,
    ) -> Tensor:
        """itm of right pairs, and of wrong images and texts."""
        labels = _everyone(F.pad(tags, (0, MOST_TAGS - tags.shape[1]), value=-1))
        room = (0, LONGEST - ids.shape[1] if _world() > 1 else 0)
        texts, masks = (_everyone(F.pad(part, room)) for part in (ids, mask))
        shown, rows = torch.unique(torch.cat((own, wrong_images, own)), return_inverse=True)
        memory = self.aligned.memory(_everyone(tokens)[shown], labels[shown])
        said = torch.cat((own, own, wrong_texts))
        logits = self.aligned.match(texts[said], masks[said], memory, rows)
        right = torch.full_like(said, 1 - MATCHES)
        right[: len(own)] = MATCHES
        return F.cross_entropy(exact(logits), right)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the copies a little towards their originals."""
        own = dict(self.aligned.named_parameters())
        for name, copy in self.copies.named_buffers():
            if name in own:
                copy.mul_(MOMENTUM).add_(own[name], alpha=1 - MOMENTUM)

    @torch.no_grad()
    def _remember(self, image: Tensor, text: Tensor, keys: Tensor) -> None:
        """Put a batch's pairs in the place of the oldest."""
        at = (self.pairs + torch.arange(len(keys), device=keys.device)) % len(self.key_queue)
        self.image_queue[at], self.text_queue[at], self.key_queue[at] = image, text, keys
        self.pairs += len(keys)


def soft_targets(opinion: Tensor, same: Tensor, alpha: float) -> Tensor:
    """Targets of itc, (n, candidates), each row summing to 1.

    Args:
        opinion: the copies' own logits.
        same: which candidates belong to which row.
        alpha: the opinion's weight; the right candidates share the rest.
    """
    right = same / same.sum(dim=1, keepdim=True)
    return alpha * opinion.softmax(dim=1) + (1 - alpha) * right


def hard_negatives(logits: Tensor, same: Tensor, smooth: float) -> Tensor:
    """For each row a column that does not belong, drawn by softmax.

    Args:
        same: which do belong.
        smooth: added to each chance.

    Raises:
        Misconfigured: a row to which all belong.
    """
    if bool(same.all(dim=1).any()):
        raise Misconfigured(
            "All images of a batch are the same one, so that itm has no wrong pair: set a larger batch."
        )
    chances = logits.softmax(dim=1) + smooth
    # of exponential times, the one of rate r is the smallest with a chance in proportion to r
    return (chances / torch.empty_like(chances).exponential_()).masked_fill(same, -1).argmax(dim=1)


def _followers(aligned: Aligned) -> Aligned:
    """A copy of the modules that itc uses, with parameters as buffers."""
    unread = (aligned.network.text.decoder, aligned.network.text.tag_encoder.attention)
    copy = deepcopy(aligned, {id(module): nn.Identity() for module in unread})
    for module in copy.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                del module._parameters[name]
                module.register_buffer(name, parameter.detach().clone())
    return copy


def _world() -> int:
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 1


def _rank() -> int:
    return torch.distributed.get_rank() if _world() > 1 else 0


def _everyone(own: Tensor) -> Tensor:
    """The rows of all processes, in their order; gradients flow back to each."""
    rows: Tensor = own if _world() == 1 else _Everyone.apply(own)
    return rows


class _Everyone(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(_world())]
        torch.distributed.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total.chunk(_world())[_rank()]
