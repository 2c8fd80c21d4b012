"""Outlier regions of a label, by k-means++ distance.

Arthur and Vassilvitskii 2007 for the seeding; RAM (section 3.3) for the use: the farthest tenth loses the tag.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]

ROUNDS = 20
"""The most rounds of k-means; it mostly settles in a few."""


def farthest(
    features: Features, share: float, *, clusters: int = 8, least: int = 20, seed: int = 0
) -> NDArray[np.bool_]:
    """Marks the rows that are farthest from the centre of their cluster.

    Args:
        features: (n, d), one row a region; compared by their direction alone.
        share: of the rows to mark, rounded down.
        clusters: at most; never so many that one has fewer than ten rows on average.
        least: fewer rows say nothing about each other, and none of them is marked.
    """
    marked = np.zeros(len(features), np.bool_)
    if len(features) < least:
        return marked
    rows = _directions(features)
    centres = kmeans(rows, max(1, min(clusters, len(rows) // 10)), np.random.default_rng(seed))
    distance = _squares(rows, centres).min(axis=1)
    count = math.floor(share * len(rows))
    marked[np.argsort(-distance, kind="stable")[:count]] = True
    return marked


def kmeans(rows: Features, clusters: int, random: np.random.Generator) -> Features:
    """(clusters, d) centres of (n, d) rows: k-means++ seeding, then Lloyd's rounds."""
    centres = _seeds(rows, clusters, random)
    for _ in range(ROUNDS):
        nearest = _squares(rows, centres).argmin(axis=1)
        moved = centres.copy()
        for cluster in range(clusters):
            members = rows[nearest == cluster]
            if len(members):
                moved[cluster] = members.mean(axis=0)
        if np.allclose(moved, centres, atol=1e-6):
            break
        centres = moved
    return centres


def _seeds(rows: Features, clusters: int, random: np.random.Generator) -> Features:
    """Draw centres, each by its squared distance from the chosen ones."""
    chosen = [int(random.integers(len(rows)))]
    distance = _squares(rows, rows[chosen]).min(axis=1)
    while len(chosen) < clusters:
        total = float(distance.sum())
        if total <= 0:  # as many centres as there are different rows
            chosen.append(int(random.integers(len(rows))))
            continue
        chosen.append(int(random.choice(len(rows), p=distance / total)))
        distance = np.minimum(distance, _squares(rows, rows[chosen[-1:]])[:, 0])
    return rows[chosen].copy()


def _squares(rows: Features, centres: Features) -> NDArray[np.float64]:
    """(n, k) squared distances."""
    products = rows.astype(np.float64) @ centres.T.astype(np.float64)
    lengths = (rows.astype(np.float64) ** 2).sum(axis=1)[:, None] + (centres.astype(np.float64) ** 2).sum(axis=1)
    squares: NDArray[np.float64] = np.maximum(lengths - 2 * products, 0)
    return squares


def _directions(features: Features) -> Features:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-12), np.float32)
