"""The networks RAM, RAM++ and Tag2Text: encode the image, score labels chunk by chunk."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.models.added import AddedLabels
from workers.models.ram.config import AnyConfig, HeadConfig, RamConfig, RamPlusConfig, SwinConfig, Tag2TextConfig
from workers.models.ram.layers import ROWS_AT_ONCE, TagHead, exact, label_chunks
from workers.models.ram.swin import Swin
from workers.models.ram.text import TextBranch


class LabelScorer(nn.Module):
    """An image's logit for every label, or for some of them.

    Life: build, load weights, `eval()`, move and cast, `freeze()`. Frozen tensors do not follow later changes of
    weights; in training, leave it unfrozen.
    """

    rows_at_once = ROWS_AT_ONCE
    config: AnyConfig
    frozen_first: Tensor | None
    """The first projection of label queries that don't depend on the image, once frozen."""

    def __init__(self, encoder: SwinConfig, labels: int, head: HeadConfig, memory: int) -> None:
        super().__init__()
        self.labels = labels
        self.encoder = Swin(encoder)
        self.head = TagHead(head, memory)
        self.added: AddedLabels | None = None
        self.register_buffer("frozen_first", None, persistent=False)

    def freeze(self) -> None:
        """Compute once what does not depend on the image."""
        self.encoder.freeze()

    def encode(self, images: Tensor) -> Tensor:
        """Normalised (images, 3, side, side) → (images, 1 + tokens, encoder width)."""
        tokens: Tensor = self.encoder(images)
        return tokens

    def embed(self, tokens: Tensor) -> Tensor:
        """Image tokens as the heads read them: (images, 1 + tokens, encoder width) → (images, 1 + tokens, width)."""
        return tokens

    def score(self, embeds: Tensor, subset: Tensor | None = None) -> Tensor:
        """Logits in fp32, or in the model's precision if higher.

        Args:
            embeds: (images, 1 + tokens, width) from `embed`.
            subset: (n,) int64 label ids; None scores all. The same numbers (to float rounding) as the columns of all.

        Returns:
            (images, n) or (images, labels), added ones among them.
        """
        return self._score(embeds, subset) if self.added is None else self.added.among(self._score, embeds, subset)

    def _score(self, embeds: Tensor, subset: Tensor | None) -> Tensor:
        ids = torch.arange(self.labels, device=embeds.device) if subset is None else subset
        memory = self.head.remember(embeds, len(ids), self.frozen_first is not None)
        parts = []
        for chunk in label_chunks(len(ids), len(embeds), self.rows_at_once):
            part = chunk if subset is None else ids[chunk]
            queries, first = self.queries(embeds, part)
            logits = self.classify(self.head(queries, memory, first), part)
            parts.append(exact(logits))
        return torch.cat(parts, dim=1)

    @abstractmethod
    def queries(self, embeds: Tensor, labels: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        """Queries of n labels and, if frozen, their first projection.

        Args:
            embeds: (images, 1 + tokens, width) from `embed`.
            labels: a slice, or (n,) int64 label ids.

        Returns:
            Queries (n, head width) that all images share, or (images, n, head width); the projection is (heads, n,
            head width).
        """

    @abstractmethod
    def classify(self, hidden: Tensor, labels: slice | Tensor) -> Tensor:
        """(images, n, width) hidden states of these labels → (images, n) logits."""


class _OpenSet(LabelScorer):
    """Knows a label by text embeddings, of norm 1: replace `label_embed` by those of other labels."""

    def __init__(self, config: RamConfig | RamPlusConfig, descriptions: int) -> None:
        super().__init__(config.encoder, config.labels, config.head, config.embedding)
        self.label_embed = nn.Parameter(torch.zeros(config.labels * descriptions, config.embedding))
        self.image_proj = nn.Linear(config.encoder.width_out, config.embedding)
        self.label_proj = nn.Linear(config.embedding, config.head.width)
        self.class_weight = nn.Parameter(torch.zeros(1, config.head.width))
        self.class_bias = nn.Parameter(torch.zeros(1))

    def embed(self, tokens: Tensor) -> Tensor:
        embeds: Tensor = self.image_proj(tokens)
        return embeds

    def classify(self, hidden: Tensor, labels: slice | Tensor) -> Tensor:
        return F.linear(hidden, self.class_weight, self.class_bias).squeeze(-1)


class Ram(_OpenSet):
    """The tagger of the published `ram_swin_large_14m`; `text` is its captioning branch where the config asks for it.

    `label_embed` has a row for each label.
    """

    frozen_queries: Tensor | None
    config: RamConfig

    def __init__(self, config: RamConfig) -> None:
        super().__init__(config, 1)
        self.config = config
        self.text = None if config.text is None else TextBranch(config.text, config.embedding, config.head.layers)
        self.register_buffer("frozen_queries", None, persistent=False)

    def freeze(self) -> None:
        super().freeze()
        with torch.no_grad():
            self.frozen_queries = self.label_queries(slice(None))
            self.frozen_first = self.head.first_queries(self.frozen_queries)

    def label_queries(self, labels: slice | Tensor) -> Tensor:
        """(n, head width), the same for every image."""
        queries: Tensor = self.label_proj(self.label_embed[labels]).relu()
        return queries

    def queries(self, embeds: Tensor, labels: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        if self.frozen_queries is None or self.frozen_first is None:
            return self.label_queries(labels), None
        return self.frozen_queries[labels], self.frozen_first[:, labels]


class RamPlus(_OpenSet):
    """The tagger of the published `ram_plus_swin_large_14m`.

    `label_embed` has a row for each description, label by label.
    """

    config: RamPlusConfig

    def __init__(self, config: RamPlusConfig) -> None:
        super().__init__(config, config.descriptions)
        self.config = config
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

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
        descriptions = self.label_embed.view(self.labels, self.config.descriptions, -1)[labels]
        mean = torch.bmm(self.description_weights(embeds, descriptions), descriptions)
        queries: Tensor = self.label_proj(mean.transpose(0, 1)).relu()
        return queries

    def queries(self, embeds: Tensor, labels: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        return self.label_queries(embeds, labels), None


class Tag2Text(LabelScorer):
    """The tagger and captioner of the published `tag2text_swin_14m`. Captions take `guide`, then `decoding.decode`."""

    config: Tag2TextConfig

    def __init__(self, config: Tag2TextConfig) -> None:
        super().__init__(config.encoder, config.labels, config.head, config.encoder.width_out)
        self.config = config
        self.label_embed = nn.Parameter(torch.zeros(config.labels, config.head.width))
        self.class_weight = nn.Parameter(torch.zeros(config.labels, config.head.width))
        self.class_bias = nn.Parameter(torch.zeros(config.labels))
        self.text = TextBranch(config.text, config.encoder.width_out, config.head.layers)

    def freeze(self) -> None:
        super().freeze()
        with torch.no_grad():
            self.frozen_first = self.head.first_queries(self.label_embed)

    def queries(self, embeds: Tensor, labels: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        first = None if self.frozen_first is None else self.frozen_first[:, labels]
        return self.label_embed[labels], first

    def classify(self, hidden: Tensor, labels: slice | Tensor) -> Tensor:
        return (hidden * self.class_weight[labels]).sum(dim=-1) + self.class_bias[labels]

    def guide(self, ids: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """Tag ids, mask and image tokens → decoder input (images, n, width)."""
        states: Tensor = self.text.tag_encoder(ids, mask, tokens, self.head.layers)
        return states


NETWORKS: Mapping[type[AnyConfig], Callable[[Any], LabelScorer]] = {
    RamConfig: Ram,
    RamPlusConfig: RamPlus,
    Tag2TextConfig: Tag2Text,
}


def empty_model(config: AnyConfig) -> LabelScorer:
    """The model without storage for its parameters (on the meta device): quick, whatever its size."""
    with torch.device("meta"):
        return NETWORKS[type(config)](config)


def filled_model(config: AnyConfig, weights: Mapping[str, Tensor]) -> LabelScorer:
    """The model for inference around these tensors (taken over, not copied); not frozen yet.

    Raises RuntimeError: a name or shape does not fit.
    """
    model = empty_model(config)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.requires_grad_(False).eval()
