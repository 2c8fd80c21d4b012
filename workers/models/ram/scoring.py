"""What RAM, RAM++ and Tag2Text have in common as taggers: encode the image, score labels chunk by chunk."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from workers.models.ram.config import HeadConfig, SwinConfig
from workers.models.ram.heads import ROWS_AT_ONCE, TagHead, label_chunks
from workers.models.ram.swin import Swin


class LabelScorer(nn.Module):
    """An image's logit for every label, or for some of them.

    Life: build, load weights, `eval()`, move and cast, `freeze()`. What is frozen does not follow later changes of
    weights; in training, leave it unfrozen.
    """

    rows_at_once = ROWS_AT_ONCE

    def __init__(self, encoder: SwinConfig, labels: int, head: HeadConfig, memory: int) -> None:
        super().__init__()
        self.labels = labels
        self.encoder = Swin(encoder)
        self.head = TagHead(head, memory)

    def freeze(self) -> None:
        """Compute once what does not depend on the image."""
        self.encoder.freeze()

    def encode(self, images: Tensor) -> Tensor:
        """(images, 3, side, side) normalised → image tokens (images, 1 + tokens, encoder width)."""
        tokens: Tensor = self.encoder(images)
        return tokens

    def embed(self, tokens: Tensor) -> Tensor:
        """Image tokens as the heads read them."""
        return tokens

    def score(self, embeds: Tensor, subset: Tensor | None = None) -> Tensor:
        """Logits in fp32, or in the model's own precision where that is higher.

        Args:
            embeds: (images, 1 + tokens, width) from `embed`.
            subset: (n,) int64 label ids; None scores all. The same numbers (to float rounding) as the columns of all.

        Returns:
            (images, n) or (images, labels).
        """
        ids = torch.arange(self.labels, device=embeds.device) if subset is None else subset
        memory = self.head.remember(embeds, len(ids), self.constant_queries)
        parts = []
        for chunk in label_chunks(len(ids), len(embeds), self.rows_at_once):
            part = chunk if subset is None else ids[chunk]
            queries, first = self.queries(embeds, part)
            logits = self.classify(self.head(queries, memory, first), part)
            parts.append(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        return torch.cat(parts, dim=1)

    @property
    @abstractmethod
    def constant_queries(self) -> bool:
        """Whether `queries` will give `first`: label queries that don't depend on the image, frozen."""

    @abstractmethod
    def queries(self, embeds: Tensor, labels: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        """Queries of these labels and, where they are constant and frozen, their first projection."""

    @abstractmethod
    def classify(self, hidden: Tensor, labels: slice | Tensor) -> Tensor:
        """(images, n, width) hidden states of these labels → (images, n) logits."""
