"""The four losses of RAM, RAM++ and Tag2Text, and their sum.

The formulas come from the official programs (github.com/xinyu1205/recognize-anything); tests compare the values.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

IGNORED = -100
"""A target that does not count."""
LABEL_SMOOTHING = 0.1
_TINY = 1e-8


def asymmetric(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_pos: float = 0,
    gamma_neg: float = 7,
    clip: float = 0.05,
    weights: Tensor | None = None,
) -> Tensor:
    """Asymmetric loss (Ridnik et al., 2021), summed.

    Negatives are many and easy, so their exponent is large, and below the probability `clip` they have no weight. No
    gradient flows through the focusing factor.

    Args:
        targets: 1 for labels that the image has, 0 for others; the same shape.
        weights: of each entry; 0 where it is unknown. None: all are known.
    """
    probability = logits.sigmoid()
    of_absence = (1 - probability + clip).clamp(max=1)
    likelihood = targets * _log(probability) + (1 - targets) * _log(of_absence)
    with torch.no_grad():
        right = targets * probability + (1 - targets) * of_absence
        focus = (1 - right) ** (targets * gamma_pos + (1 - targets) * gamma_neg)
        if weights is not None:
            focus = focus * weights
    return -(likelihood * focus).sum()


def text(logits: Tensor, ids: Tensor, mask: Tensor, *, prompt: int) -> Tensor:
    """Mean cross-entropy of next tokens, label smoothing 0.1.

    Args:
        logits: (rows, n, vocabulary), after each token.
        ids: (rows, n) int64, the texts themselves.
        mask: (rows, n), false on padding.
        prompt: number of initial tokens without a loss.
    """
    targets = ids.masked_fill(~mask.bool(), IGNORED)
    targets[:, :prompt] = IGNORED
    targets = targets[:, 1:]
    if not bool((targets != IGNORED).any()):
        return logits.sum() * 0
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=LABEL_SMOOTHING
    )


def distillation(embeds: Tensor, features: Tensor) -> Tensor:
    """Mean absolute difference between projected images and CLIP's features.

    Args:
        embeds: (images, embedding), the projection of the image token.
        features: (images, embedding) of CLIP ViT-B/16, not normalised.
    """
    return F.l1_loss(embeds, features)


def alignment(logits: Tensor) -> Tensor:
    """Contrast every image with every text of the batch.

    Args:
        logits: (n, n), of image i and text j.
    """
    own = torch.eye(len(logits), dtype=logits.dtype, device=logits.device)
    return asymmetric(logits, own, gamma_neg=4)


def balanced(tagging: Tensor, text: Tensor | None) -> Tensor:
    """Text loss plus tagging loss, scaled to the text's size.

    Without texts it is tagging alone.
    """
    if text is None:
        return tagging
    return text + tagging * (text / tagging.clamp(min=_TINY)).detach()


def _log(probability: Tensor) -> Tensor:
    return probability.clamp(min=_TINY).log()
