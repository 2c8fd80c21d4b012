"""Images of one batch that want different labels: over which labels the head runs, and how many times.

A pass costs a multiplication by the head's matrices for every row (a label of an image), and something for itself,
because these matrices have to be read, and kernels started, however few rows there are. So images that want the same
labels share a pass. Sets that differ share one where the unwanted rows cost less than the second pass would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.types import Subset

PASS_ROWS = 64
"""What a pass costs before its first row, in rows. Measured at the published size on a CPU: 20 to 40 in fp32, 55 to 75
in bf16, where a row is quicker and reading the matrices is not."""

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Pass:
    """One run of the head.

    Args:
        images: places in the batch, (p,).
        labels: ids, ascending, (n,).
    """

    images: tuple[int, ...]
    labels: Ids

    @property
    def rows(self) -> int:
        return len(self.images) * len(self.labels)

    def joined(self, other: Pass) -> Pass:
        """All images of both, for all labels of both."""
        return Pass(self.images + other.images, np.union1d(self.labels, other.labels))


def plan(subsets: Sequence[Subset | None], every: Ids) -> list[Pass]:
    """Passes in which each image of a batch is once, for its labels at least.

    Args:
        subsets: one for each image; None: every label.
        every: ids of the labels that there are to score, ascending.
    """
    groups: dict[Subset | None, list[int]] = {}
    for place, subset in enumerate(subsets):
        groups.setdefault(subset, []).append(place)
    wanted = [
        Pass(tuple(places), every if subset is None else np.array(subset.ids, np.int32))
        for subset, places in groups.items()
    ]
    passes: list[Pass] = []
    for each in sorted(wanted, key=lambda found: len(found.labels), reverse=True):
        _add(passes, each)
    return passes


def _add(passes: list[Pass], new: Pass) -> None:
    """Let the new one share a pass where that is cheaper; what had more labels is there already."""
    shared = [(one.joined(new).rows - one.rows, place) for place, one in enumerate(passes)]
    extra, place = min(shared, default=(PASS_ROWS + new.rows, -1))
    if extra < PASS_ROWS + new.rows:
        passes[place] = passes[place].joined(new)
    else:
        passes.append(new)
