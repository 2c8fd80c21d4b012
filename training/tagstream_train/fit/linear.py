"""Classifiers on fixed features: one logistic regression a label, with L2, by L-BFGS.

The loss is convex, so there is no learning rate and no epoch. Cross-validation chooses each label's L2 strength, as in
scikit-learn's `LogisticRegressionCV`. The final classifiers learn from all images. The held-out scores of the
cross-validation give thresholds and unbiased numbers. They also choose what is done to an encoder's features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.models.added import rooted

STRENGTHS = (1e3, 1e2, 1e1, 1e0, 1e-1, 1e-2)
"""Tried in this order: strength · |w|² / 2 is added to the sum of the images' losses. Features are first centred and
scaled to a mean square of 1."""
FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Factors of the logits, tried for each strength. Small weights rank noisy labels best, but give too small logits."""
_STEPS = 100
_RANK = 1e-6
"""Directions below this share of the largest singular value are rounding errors."""
_NUMBERS_AT_ONCE = 1 << 24
"""Elements of one matrix of images by classifiers."""


@dataclass(frozen=True)
class Linear:
    """Classifiers of labels: logits are `read(features) @ weight.T + bias`.

    Args:
        weight, bias: (labels, width) and (labels,) float32.
        strengths: (labels,), as chosen.
        held_out: (images, labels) float32 logits by classifiers that were fitted without the image.
        rooted: whether they read `rooted` features.
    """

    weight: Tensor
    bias: Tensor
    strengths: Tensor
    held_out: Tensor
    rooted: bool = False

    def read(self, features: Tensor) -> Tensor:
        """Features as the classifiers read them."""
        return rooted(features) if self.rooted else features

    def logits(self, features: Tensor) -> Tensor:
        """(images, labels) of (images, width)."""
        return self.read(features) @ self.weight.T + self.bias


def fit_best(
    features: Tensor,
    targets: Tensor,
    known: Tensor,
    folds: Tensor,
    *,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Linear:
    """`fit_linear` on features as they are, and rooted; the fit with the smaller held-out loss."""
    total = 2 * targets.shape[1]
    plain = fit_linear(features, targets, known, folds, tell=lambda done, _: tell(done, total))
    roots = fit_linear(rooted(features), targets, known, folds, tell=lambda done, all_: tell(all_ + done, total))
    losses = [
        F.binary_cross_entropy_with_logits(each.held_out, targets, weight=known, reduction="sum")
        for each in (plain, roots)
    ]
    return replace(roots, rooted=True) if losses[1] < losses[0] else plain


def fit_linear(
    features: Tensor,
    targets: Tensor,
    known: Tensor,
    folds: Tensor,
    *,
    strengths: Sequence[float] = STRENGTHS,
    factors: Sequence[float] = FACTORS,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Linear:
    """Fit a classifier for each label, on all images.

    Args:
        targets: (images, labels), 1 where an image has the label, else 0.
        known: (images, labels) weights: 0 where it is unknown whether the image has the label.
        folds: (images,) int64, from 0.
        strengths: of L2, strongest first.
        factors: of the fitted weights; strength and factor are chosen together.
        tell: gets the number of finished labels, and their total.
    """
    basis = _Basis(features)
    labels = targets.shape[1]
    at_once = max(1, _NUMBERS_AT_ONCE // (len(features) * (int(folds.max()) + 2)))
    parts = []
    for start in range(0, labels, at_once):
        part = slice(start, start + at_once)
        parts.append(_fit(basis, targets[:, part].double(), known[:, part].double(), folds, strengths, factors))
        tell(min(start + at_once, labels), labels)
    held_out, chosen, coefficients = (torch.cat(each, dim=-1) for each in zip(*parts, strict=True))
    weight, bias = basis.raised(coefficients)
    return Linear(weight.float(), bias.float(), chosen, held_out.float())


def _fit(
    basis: _Basis, targets: Tensor, known: Tensor, folds: Tensor, strengths: Sequence[float], factors: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Held-out logits (images, labels), strengths (labels,) and coefficients (directions + 1, labels)."""
    images, labels = targets.shape
    fold = F.one_hot(folds)[:, :, None]
    used = torch.cat((1 - fold, torch.ones(images, 1, 1, dtype=fold.dtype)), dim=1) * known[:, None]
    found = targets.new_zeros(basis.rank + 1, used.shape[1], labels)
    found[-1] = _log_odds(targets, used)
    least = targets.new_full((labels,), math.inf)
    held_out, chosen, best = torch.zeros_like(targets), torch.zeros_like(least), found[:, -1].clone()
    for strength in strengths:
        found = _solved(basis, targets[:, None], used, strength, found)
        margins = (torch.tensordot(basis.rows[:, :-1], found[:-1, :-1], 1) * fold).sum(1)
        biases = (found[-1, :-1] * fold).sum(1)
        for factor in factors:
            held = factor * margins + biases
            losses = (F.binary_cross_entropy_with_logits(held, targets, reduction="none") * known).sum(0)
            better = losses < least
            least, chosen = torch.where(better, losses, least), torch.where(better, strength, chosen)
            sharper = torch.cat((factor * found[:-1, -1], found[-1:, -1]))
            held_out, best = torch.where(better, held, held_out), torch.where(better, sharper, best)
    return held_out, chosen, best


def _solved(basis: _Basis, targets: Tensor, used: Tensor, strength: float, start: Tensor) -> Tensor:
    """Coefficients (directions + 1, classifiers, labels), from one problem.

    The classifiers can share it, as their losses add up.
    """
    ridge = torch.full((basis.rank + 1, 1, 1), strength, dtype=torch.float64)
    ridge[-1] = 0
    scale = (basis.squares / 4 + strength).rsqrt()[:, None, None]  # about the curvature: few steps are enough
    values = (start / scale).requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [values], max_iter=_STEPS, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        coefficients = values * scale
        logits = torch.tensordot(basis.rows, coefficients, 1)
        each = F.binary_cross_entropy_with_logits(logits, targets.expand_as(logits), weight=used, reduction="sum")
        total = each + (ridge * coefficients.square()).sum() / 2
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return (values * scale).detach()


def _log_odds(targets: Tensor, used: Tensor) -> Tensor:
    """(classifiers, labels): the fit without features. One positive and one negative are added to keep it finite."""
    has = (targets[:, None] * used).sum(0)
    return ((has + 1) / (used.sum(0) - has + 1)).log()


class _Basis:
    """Features in their principal directions: a smaller problem with the same L2 fit."""

    def __init__(self, features: Tensor) -> None:
        given = features.double()
        self._mean = given.mean(0)
        centred = given - self._mean
        self._scale = centred.square().sum(1).mean().sqrt().clamp(min=1e-12)
        _, lengths, directions = torch.linalg.svd(centred / self._scale, full_matrices=False)
        kept = lengths > _RANK * lengths[:1]
        self._directions = directions[kept]
        self.rank = int(kept.sum())
        rows = (centred / self._scale) @ self._directions.T
        self.rows = torch.cat((rows, rows.new_ones(len(rows), 1)), dim=1)
        """(images, directions + 1), the last of them ones."""
        self.squares = self.rows.square().sum(0)

    def raised(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (labels, width) and bias (labels,) for given features."""
        weight = coefficients[:-1].T @ self._directions / self._scale
        return weight, coefficients[-1] - weight @ self._mean
