"""Tag2Text: labels with an embedding and a classifier each, and captions guided by tags."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workers.models.ram.config import Tag2TextConfig
from workers.models.ram.scoring import LabelScorer
from workers.models.ram.text import TextBranch


class Tag2Text(LabelScorer):
    """The tagger and captioner of the published `tag2text_swin_14m`. Captions take `guide`, then `decoding.decode`."""

    frozen_first: Tensor | None

    def __init__(self, config: Tag2TextConfig) -> None:
        super().__init__(config.encoder, config.labels, config.head, config.encoder.width_out)
        self.config = config
        self.label_embed = nn.Parameter(torch.zeros(config.labels, config.head.width))
        self.class_weight = nn.Parameter(torch.zeros(config.labels, config.head.width))
        self.class_bias = nn.Parameter(torch.zeros(config.labels))
        self.text = TextBranch(config.text, config.encoder.width_out, config.head.layers)
        self.register_buffer("frozen_first", None, persistent=False)

    def freeze(self) -> None:
        super().freeze()
        with torch.no_grad():
            self.frozen_first = self.head.first_queries(self.label_embed)

    @property
    def constant_queries(self) -> bool:
        return self.frozen_first is not None

    def queries(self, embeds: Tensor, labels: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        first = None if self.frozen_first is None else self.frozen_first[:, labels]
        return self.label_embed[labels], first

    def classify(self, hidden: Tensor, labels: slice | Tensor) -> Tensor:
        return (hidden * self.class_weight[labels]).sum(dim=-1) + self.class_bias[labels]

    def guide(self, ids: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """Tag ids and mask (images, n), image tokens → what the text decoder reads: (images, n, width)."""
        states: Tensor = self.text.tag_encoder(ids, mask, tokens, self.head.layers)
        return states
