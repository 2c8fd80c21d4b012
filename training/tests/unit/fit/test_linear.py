"""Logistic regressions on features, compared with scikit-learn's."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tagstream_train.fit.linear import Linear, fit_best, fit_linear

IMAGES, WIDTH, LABELS = 120, 40, 3


@pytest.fixture(scope="module")
def features() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(WIDTH, WIDTH, generator=generator)
    return torch.randn(IMAGES, WIDTH, generator=generator) @ mixed + 5


@pytest.fixture(scope="module")
def targets(features: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(WIDTH, LABELS, generator=generator)
    noisy = (features - 5) @ directions / 40 + 0.7 * torch.randn(IMAGES, LABELS, generator=generator)
    return (noisy > torch.tensor([0.0, 0.5, 1.0])).float()


pytestmark = pytest.mark.slow  # the first optimizer of a process imports for seconds

FOLDS = torch.arange(IMAGES) % 5
KNOWN = torch.ones(IMAGES, LABELS)


def _scaled(features: Tensor) -> NDArray[np.float64]:
    """As the strength is defined: a mean square of 1 about the mean."""
    centred = features.double() - features.double().mean(0)
    scaled: NDArray[np.float64] = (centred / centred.square().sum(1).mean().sqrt()).numpy()
    return scaled


def _theirs(
    features: Tensor, targets: Tensor, strength: float, rows: NDArray[np.bool_], weights: Tensor
) -> NDArray[np.float64]:
    """(images, labels) logits of scikit-learn's fit on these rows."""
    from sklearn.linear_model import LogisticRegression  # takes two seconds, in every process that collects tests

    scaled, columns = _scaled(features), []
    for label in range(targets.shape[1]):
        used = rows & (weights[:, label] > 0).numpy()
        model = LogisticRegression(C=1 / strength, max_iter=10_000, tol=1e-10)
        model.fit(scaled[used], targets[used, label].numpy(), weights[used, label].numpy())
        columns.append(scaled @ model.coef_[0] + model.intercept_[0])
    return np.stack(columns, axis=1)


def _logits(fitted: Linear, features: Tensor) -> NDArray[np.float64]:
    logits: NDArray[np.float64] = (features @ fitted.weight.T + fitted.bias).numpy()
    return logits


@pytest.mark.parametrize("strength", [100.0, 1.0, 0.01])
def test_it_ends_where_scikit_learn_ends(features: Tensor, targets: Tensor, strength: float) -> None:
    fitted = fit_linear(features, targets, KNOWN, FOLDS, strengths=[strength], factors=[1.0])
    every = np.ones(IMAGES, bool)
    np.testing.assert_allclose(
        _logits(fitted, features), _theirs(features, targets, strength, every, KNOWN), atol=2e-3, rtol=1e-3
    )


def test_an_image_is_scored_by_a_classifier_that_did_not_see_it(features: Tensor, targets: Tensor) -> None:
    fitted = fit_linear(features, targets, KNOWN, FOLDS, strengths=[1.0], factors=[1.0])
    for fold in range(5):
        out = FOLDS.numpy() == fold
        theirs = _theirs(features, targets, 1.0, ~out, KNOWN)[out]
        np.testing.assert_allclose(fitted.held_out[out].numpy(), theirs, atol=1e-3, rtol=1e-3)


def test_an_unknown_label_counts_for_nothing(features: Tensor, targets: Tensor) -> None:
    known = (torch.rand(IMAGES, LABELS, generator=torch.Generator().manual_seed(2)) > 0.3).float()
    wrong = torch.where(known > 0, targets, 1 - targets)
    fitted = fit_linear(features, wrong, known, FOLDS, strengths=[1.0], factors=[1.0])
    theirs = _theirs(features, targets, 1.0, np.ones(IMAGES, bool), known)
    np.testing.assert_allclose(_logits(fitted, features), theirs, atol=1e-3, rtol=1e-3)


def test_the_strength_that_predicts_best_is_taken_for_each_label(features: Tensor) -> None:
    generator = torch.Generator().manual_seed(3)
    clear = (features[:, :1] > features[:, :1].median()).float()
    noise = (torch.rand(IMAGES, 1, generator=generator) > 0.5).float()
    fitted = fit_linear(features, torch.cat((clear, noise), 1), torch.ones(IMAGES, 2), FOLDS)
    assert fitted.strengths[0] < fitted.strengths[1]


def test_more_features_than_images_and_a_label_without_an_image_are_fitted() -> None:
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(30, 200, generator=generator)
    targets = torch.cat((torch.zeros(30, 1), torch.ones(30, 1), (features[:, :1] > 0).float()), 1)
    fitted = fit_linear(features, targets, torch.ones(30, 3), torch.arange(30) % 3)
    assert all(bool(torch.isfinite(each).all()) for each in (fitted.weight, fitted.bias, fitted.held_out))
    assert fitted.held_out[:, 0].max() < 0 < fitted.held_out[:, 1].min()
    np.testing.assert_allclose(
        _logits(fitted, features),
        _logits(fit_linear(features, targets, torch.ones(30, 3), torch.arange(30) % 3), features),
    )


def test_labels_are_fitted_in_parts_where_the_matrix_is_large(
    features: Tensor, targets: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit_linear(features, targets, KNOWN, FOLDS)
    monkeypatch.setattr("tagstream_train.fit.linear._NUMBERS_AT_ONCE", IMAGES * 6)
    told: list[tuple[int, int]] = []
    parts = fit_linear(features, targets, KNOWN, FOLDS, tell=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert parts.strengths.tolist() == whole.strengths.tolist()
    np.testing.assert_allclose(_logits(parts, features), _logits(whole, features), atol=1e-3)


def test_small_weights_are_made_as_sure_as_held_out_images_allow(features: Tensor, targets: Tensor) -> None:
    timid = fit_linear(features, targets, KNOWN, FOLDS, strengths=[1000.0], factors=[1.0])
    sure = fit_linear(features, targets, KNOWN, FOLDS, strengths=[1000.0])
    before, after = (
        torch.nn.functional.binary_cross_entropy_with_logits(each.held_out, targets) for each in (timid, sure)
    )
    assert after < 0.98 * before
    assert bool((_logits(sure, features).argsort(0) == _logits(timid, features).argsort(0)).all())


@pytest.mark.parametrize("squared", [False, True])
def test_features_are_rooted_where_held_out_images_are_better_predicted_so(squared: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    plain = torch.randn(100, 12, generator=generator)
    lengths = torch.exp(2 * torch.randn(100, 1, generator=generator)) if squared else torch.ones(100, 1)
    targets = (plain @ torch.randn(12, 2, generator=generator) > 0).float()
    given = plain * plain.abs() * lengths if squared else plain + 3
    fitted = fit_best(given, targets, torch.ones(100, 2), torch.arange(100) % 5)
    assert fitted.rooted == squared
    found = (fitted.logits(given) > 0).float()
    assert (found == targets).float().mean() > 0.9
