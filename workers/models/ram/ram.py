"""RAM: labels known by the text embedding of their name, one classifier for all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.models.ram.config import RamConfig
from workers.models.ram.scoring import LabelScorer
from workers.models.ram.text import TextBranch


class Ram(LabelScorer):
    """The tagger of the published `ram_swin_large_14m`; `text` is its captioning branch where the config asks for it.

    Open set: replace `label_embed` by (n, 512) text embeddings of other labels, of norm 1.
    """

    frozen_queries: Tensor | None
    frozen_first: Tensor | None

    def __init__(self, config: RamConfig) -> None:
        super().__init__(config.encoder, config.labels, config.head, config.embedding)
        self.config = config
        self.label_embed = nn.Parameter(torch.zeros(config.labels, config.embedding))
        self.image_proj = nn.Linear(config.encoder.width_out, config.embedding)
        self.label_proj = nn.Linear(config.embedding, config.head.width)
        self.class_weight = nn.Parameter(torch.zeros(1, config.head.width))
        self.class_bias = nn.Parameter(torch.zeros(1))
        self.text = None if config.text is None else TextBranch(config.text, config.embedding, config.head.layers)
        self.register_buffer("frozen_queries", None, persistent=False)
        self.register_buffer("frozen_first", None, persistent=False)

    def freeze(self) -> None:
        super().freeze()
        with torch.no_grad():
            self.frozen_queries = self.label_queries(slice(None))
            self.frozen_first = self.head.first_queries(self.frozen_queries)

    def embed(self, tokens: Tensor) -> Tensor:
        embeds: Tensor = self.image_proj(tokens)
        return embeds

    def label_queries(self, labels: slice | Tensor) -> Tensor:
        """(n, head width), the same for every image."""
        queries: Tensor = self.label_proj(self.label_embed[labels]).relu()
        return queries

    @property
    def constant_queries(self) -> bool:
        return self.frozen_first is not None

    def queries(self, embeds: Tensor, labels: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        if self.frozen_queries is None or self.frozen_first is None:
            return self.label_queries(labels), None
        return self.frozen_queries[labels], self.frozen_first[:, labels]

    def classify(self, hidden: Tensor, labels: slice | Tensor) -> Tensor:
        return F.linear(hidden, self.class_weight, self.class_bias).squeeze(-1)
