"""k-means++ and the farthest regions."""

from __future__ import annotations

import numpy as np
import pytest

from tagstream_train.engine.outliers import Features, farthest, kmeans


def around(centre: list[float], count: int, spread: float, seed: int) -> Features:
    noise = np.random.default_rng(seed).normal(0, spread, (count, len(centre)))
    return np.asarray(np.array(centre) + noise, np.float32)


def test_the_rows_that_look_like_none_of_the_others_are_marked() -> None:
    alike = np.concatenate([around([1, 0, 0, 0], 60, 0.02, 0), around([0, 1, 0, 0], 30, 0.02, 1)])
    strange = around([0, 0, 1, 1], 10, 0.5, 2)
    marked = farthest(np.concatenate([alike, strange]), 0.1, clusters=2)
    assert marked.sum() == 10
    assert marked[90:].sum() >= 9


def test_only_directions_count() -> None:
    rows = around([1, 0, 0], 40, 0.05, 3)
    longer = rows * np.linspace(1, 50, 40, dtype=np.float32)[:, None]
    assert np.array_equal(farthest(rows, 0.2), farthest(longer, 0.2))


@pytest.mark.parametrize(("count", "share", "expected"), [(19, 0.5, 0), (20, 0.1, 2), (25, 0.1, 2), (30, 0.0, 0)])
def test_as_many_as_the_share_says_and_none_of_few(count: int, share: float, expected: int) -> None:
    assert farthest(around([1, 0], count, 0.3, 4), share).sum() == expected


def test_rows_that_are_all_alike_make_no_trouble() -> None:
    assert farthest(np.ones((50, 4), np.float32), 0.1).sum() == 5


def test_centres_lie_in_the_middle_of_their_rows() -> None:
    rows = np.concatenate([around([5, 0], 50, 0.1, 5), around([0, 5], 50, 0.1, 6), around([-5, -5], 50, 0.1, 7)])
    centres = kmeans(rows, 3, np.random.default_rng(0))
    expected = np.stack([rows[:50].mean(0), rows[50:100].mean(0), rows[100:].mean(0)])
    found = centres[[int(((centres - each) ** 2).sum(1).argmin()) for each in expected]]
    assert np.allclose(found, expected, atol=1e-4)
