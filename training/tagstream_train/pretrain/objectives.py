"""The joint pre-training losses of Tag2Text, RAM and RAM++.

The three differ in their losses and in the labels of tagging:

    Tag2Text   tagging (labels of one random caption), captioning; optionally contrast and matching (itc, itm:
               `alignment.py`) of the image and this caption
    RAM        tagging (all labels of the image), captioning, distillation
    RAM++      tagging (all labels of the image), distillation, alignment of images with texts

Captioning learns by teacher forcing, with the caption's own tags as its guide. In RAM and RAM++ a label is the frozen
text embedding of its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from tagstream_train import losses
from tagstream_train.data.loader import Batch, multi_hot
from tagstream_train.data.samples import hash_of
from tagstream_train.features import Features, image_key, text_key
from tagstream_train.pretrain.alignment import LENGTH, Contrast
from tagstream_train.pretrain.captions import GIVEN, Drawn, caption_tokens, draw, guide_tokens
from workers.models.ram.alignment import LENGTH as SENTENCE
from workers.models.ram.alignment import recognised, sentence_tokens
from workers.models.ram.layers import exact
from workers.models.ram.networks import LabelScorer, Ram, RamPlus, Tag2Text
from workers.models.ram.text import TextBranch
from workers.models.ram.wordpiece import WordPiece

Absent: TypeAlias = Literal["unknown", "negative"]


@dataclass(frozen=True, slots=True)
class Teachers:
    """CLIP ViT-B/16's features; without a file, no such loss.

    Args:
        images: for distillation, not normalised.
        texts: of the captions, of length 1, for alignment.
    """

    images: Features | None = None
    texts: Features | None = None


class Pretraining:
    """The joint objective of one of the three models.

    Args:
        wordpiece: cuts captions and tags; None: no captioning.
        prompt: whether captions begin with "a picture of" (see `caption_tokens`).
        absent: the meaning of a label without a statement for an image; negative in the official programs.
        contrast: computes itc and itm of this model.
        weights: of the losses itc and itm, by name.
        untagged: share of the images whose tags matching doesn't see.
        retrieval: (labels,) thresholds of the tags that guide matching. With them itc and itm are the only losses, and
            all captions of an image are right. None: the batch's best tags, as many as its captions have.
    """

    def __init__(
        self,
        model: LabelScorer,
        labels: Sequence[str],
        *,
        wordpiece: WordPiece | None = None,
        teachers: Teachers = Teachers(),
        prompt: bool = True,
        absent: Absent = "negative",
        contrast: Contrast | None = None,
        weights: Mapping[str, float] = {},
        untagged: float = 0.0,
        retrieval: Tensor | None = None,
    ) -> None:
        self.model: nn.Module = contrast or model
        self._contrast = contrast
        self._weights = weights
        self._untagged = untagged
        self._retrieval = retrieval
        self._scorer = model
        self._labels = labels
        self._wordpiece = wordpiece
        self._teachers = teachers
        self._prompt = prompt
        self._absent = absent
        if isinstance(model, Ram | RamPlus):
            model.label_embed.requires_grad_(False)

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """The model's losses by name, and `total`."""
        drawn = [draw(sample, seed) for sample, seed in zip(batch.samples, _seeds(batch), strict=True)]
        embeds = self._scorer.embed(self._scorer.encode(batch.images))
        found: dict[str, Tensor | None] = {}
        logits = None
        if self._retrieval is None:
            logits = self._scorer.score(embeds)
            found = {
                "tagging": self._tagging(batch, drawn, logits),
                "text": self._text(drawn, embeds),
                "distillation": self._distillation(batch, embeds),
                "alignment": self._alignment(drawn, embeds),
            }
        found |= self._contrasted(batch, drawn, embeds, logits)
        parts = {name: loss for name, loss in found.items() if loss is not None}
        total = losses.balanced(parts["tagging"], parts.get("text")) if "tagging" in parts else embeds.new_zeros(())
        for name in ("distillation", "alignment"):
            total = total + parts[name] if name in parts else total
        for name, weight in self._weights.items():
            total = total + weight * parts[name] if name in parts else total
        return {**parts, "total": total}

    def _tagging(self, batch: Batch, drawn: Sequence[Drawn | None], logits: Tensor) -> Tensor:
        samples = batch.samples
        if isinstance(self._scorer, Tag2Text):
            samples = tuple(
                sample if each is None else sample.model_copy(update={"tags": each.tags})
                for sample, each in zip(samples, drawn, strict=True)
            )
        targets, weights = (
            part.to(logits.device) for part in multi_hot(samples, len(self._labels), absent=self._absent)
        )
        return losses.asymmetric(logits, targets, weights=weights)

    def _text(self, drawn: Sequence[Drawn | None], embeds: Tensor) -> Tensor | None:
        branch = getattr(self._scorer, "text", None)
        rows = [row for row, each in enumerate(drawn) if each is not None]
        if not isinstance(branch, TextBranch) or self._wordpiece is None or not rows:
            return None
        captions = [each for each in drawn if each is not None]
        guides = guide_tokens(self._wordpiece, self._labels, [each.tags for each in captions])
        texts = caption_tokens(self._wordpiece, [each.caption for each in captions], prompt=self._prompt)
        (guide, guide_mask), (ids, mask) = (tuple(part.to(embeds.device) for part in pair) for pair in (guides, texts))
        states = branch.tag_encoder(guide, guide_mask, embeds[rows], self._scorer.head.layers)
        return losses.text(branch.decoder(ids, mask, states), ids, mask, prompt=GIVEN)

    def _contrasted(
        self, batch: Batch, drawn: Sequence[Drawn | None], embeds: Tensor, logits: Tensor | None
    ) -> Mapping[str, Tensor]:
        """itc and itm."""
        if self._contrast is None or self._wordpiece is None:
            return {}
        captions = [each for each in drawn if each is not None]
        keys = torch.tensor([int(hash_of(each)[:15], 16) for each in batch.samples], device=embeds.device)
        length = LENGTH if self._retrieval is None else SENTENCE
        texts = sentence_tokens(self._wordpiece, [each.caption for each in captions], length=length)
        ids, mask = (part.to(embeds.device) for part in texts)
        tags = self._shown_tags(self._contrast, captions, embeds, logits)
        return self._contrast.losses(batch.images, embeds, ids, mask, tags, keys)

    def _shown_tags(
        self, contrast: Contrast, captions: Sequence[Drawn], embeds: Tensor, logits: Tensor | None
    ) -> Tensor:
        """Label ids (images, most) that matching sees, -1 behind the last; of an image without them -1 alone."""
        if contrast.aligned.part.tag_proj is None:
            return torch.empty(len(embeds), 0, dtype=torch.int64, device=embeds.device)
        scores = (self._scorer.score(embeds) if logits is None else logits).detach().sigmoid()
        if self._retrieval is None:
            many = sum(len(each.tags) for each in captions)
            thresholds = scores.flatten().topk(min(1 + many, scores.numel())).values[-1]
        else:
            thresholds = self._retrieval.to(embeds.device)
        tags = recognised(scores, thresholds)
        if not self._untagged:
            return tags
        return tags.masked_fill(torch.rand(len(tags), 1, device=tags.device) < self._untagged, -1)

    def _distillation(self, batch: Batch, embeds: Tensor) -> Tensor | None:
        features = self._teachers.images
        if features is None or isinstance(self._scorer, Tag2Text):
            return None
        wanted = features.rows(image_key(features, sample) for sample in batch.samples)
        return losses.distillation(embeds[:, 0], wanted.to(embeds.device, embeds.dtype))

    def _alignment(self, drawn: Sequence[Drawn | None], embeds: Tensor) -> Tensor | None:
        features = self._teachers.texts
        rows = [row for row, each in enumerate(drawn) if each is not None]
        if features is None or not isinstance(self._scorer, RamPlus) or not rows:
            return None
        texts = features.units(text_key(features, each.caption) for each in drawn if each is not None)
        return losses.alignment(matched(self._scorer, embeds[rows], texts.to(embeds.device, embeds.dtype)))


def matched(model: RamPlus, embeds: Tensor, texts: Tensor) -> Tensor:
    """Logits (images, texts) of each text as if a label."""
    queries = model.label_proj(texts).relu()
    memory = model.head.remember(embeds, len(texts), False)
    logits = model.classify(model.head(queries, memory), slice(None))
    return exact(logits)


def _seeds(batch: Batch) -> Sequence[int]:
    return batch.seeds or (0,) * len(batch.samples)
