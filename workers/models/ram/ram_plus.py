"""RAM++: labels known by many descriptions, which each image weighs anew."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.models.ram.config import RamPlusConfig
from workers.models.ram.scoring import LabelScorer


class RamPlus(LabelScorer):
    """The tagger of the published `ram_plus_swin_large_14m`.

    Open set: replace `label_embed` by (n × descriptions, 512) text embeddings, label by label, of norm 1.
    """

    def __init__(self, config: RamPlusConfig) -> None:
        super().__init__(config.encoder, config.labels, config.head, config.embedding)
        self.config = config
        self.label_embed = nn.Parameter(torch.zeros(config.labels * config.descriptions, config.embedding))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.image_proj = nn.Linear(config.encoder.width_out, config.embedding)
        self.label_proj = nn.Linear(config.embedding, config.head.width)
        self.class_weight = nn.Parameter(torch.zeros(1, config.head.width))
        self.class_bias = nn.Parameter(torch.zeros(1))

    def embed(self, tokens: Tensor) -> Tensor:
        embeds: Tensor = self.image_proj(tokens)
        return embeds

    def description_weights(self, embeds: Tensor, descriptions: Tensor) -> Tensor:
        """How much each description counts for each image.

        Args:
            embeds: (images, 1 + tokens, embedding); token 0 stands for the image.
            descriptions: (n, descriptions, embedding) of n labels.

        Returns:
            (n, images, descriptions), each row summing to 1.
        """
        image = F.normalize(embeds[:, 0], dim=-1) * self.log_scale.exp()
        similarity = torch.mm(descriptions.flatten(0, 1), image.t())  # n × descriptions, images
        return similarity.view(*descriptions.shape[:2], -1).transpose(1, 2).softmax(dim=-1)

    def label_queries(self, embeds: Tensor, labels: slice | Tensor) -> Tensor:
        """(images, n, head width), different for each image.

        The weighted sum over descriptions is one batched product, label by label, for all images together.
        """
        return self.queries_of(embeds, self.label_embed.view(self.labels, self.config.descriptions, -1)[labels])

    def queries_of(self, embeds: Tensor, descriptions: Tensor) -> Tensor:
        """As `label_queries`, of any labels: (n, descriptions, embedding)."""
        mean = torch.bmm(self.description_weights(embeds, descriptions), descriptions)
        queries: Tensor = self.label_proj(mean.transpose(0, 1)).relu()
        return queries

    @property
    def constant_queries(self) -> bool:
        return False

    def queries(self, embeds: Tensor, labels: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        return self.label_queries(embeds, labels), None

    def classify(self, hidden: Tensor, labels: slice | Tensor) -> Tensor:
        return F.linear(hidden, self.class_weight, self.class_bias).squeeze(-1)
