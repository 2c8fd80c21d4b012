"""The loss of `train fit`: new tags, with old labels guarded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from tagstream_train.adapt import Learner
from tagstream_train.data.loader import Batch, Batches, multi_hot
from tagstream_train.data.samples import Sample
from tagstream_train.loop import TOTAL
from tagstream_train.losses import asymmetric

GUARDED_AT_ONCE = 256
"""Old labels, drawn anew for each step, that are held to the old model's answers: all would cost thousands of rows an
image."""


class Replayed(Sample):
    """A replay set's sample, which knows the old labels."""


class Fitting:
    """Asymmetric loss of new tags, distillation of old labels.

    The old model's scores are the targets, unless the replay set knows better.

    Args:
        own: ids of the training set's labels, ascending; nothing is said of the others.
        replayed: ids of the replay set's labels.
        negative: whether a label of a sample's set that it does not have is absent; else it is unknown.
        guard: weight of the distillation; 0: none.
        gamma: how much less a negative counts the better it is known.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        own: Sequence[int],
        replayed: Sequence[int] = (),
        negative: bool = True,
        guard: float = 3.0,
        gamma: float = 2.0,
    ) -> None:
        self.model: nn.Module = learner
        self._learner = learner
        self._own = _mask(own, len(learner.labels))
        self._replayed = _mask(replayed, len(learner.labels))
        self._trained = self._own | self._replayed
        self._guarded = torch.tensor([i for i in range(learner.kept) if not self._own[i]], dtype=torch.int64)
        self._negative = negative
        self._guard = guard
        self._gamma = gamma
        self.teacher = learner.teacher() if guard and len(self._guarded) else None

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        features = self._learner.encode(batch.images)
        ids = self._ids()
        logits = self._learner.score(features, ids.to(features.device))
        targets, weights = (part[:, ids].to(logits.device) for part in self._wanted(batch.samples))
        images = len(batch.samples)
        tagging = asymmetric(logits, targets, weights=weights, gamma_neg=self._gamma) / images
        guard = self._distillation(batch, features, ids, logits, weights)
        if guard is None:
            return {TOTAL: tagging}
        return {"tagging": tagging, "guard": guard / images, TOTAL: tagging + self._guard * guard / images}

    def _ids(self) -> Tensor:
        """Labels of this step: trained ones and some guarded ones, ascending."""
        if self.teacher is None:
            return self._trained.nonzero()[:, 0]
        drawn = self._guarded[torch.randperm(len(self._guarded), device="cpu")[:GUARDED_AT_ONCE]]
        return (self._trained | _mask(drawn.tolist(), len(self._trained))).nonzero()[:, 0]

    def _wanted(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Targets and weights of all labels."""
        targets, weights = multi_hot(samples, len(self._trained), absent="negative" if self._negative else "unknown")
        known = torch.stack([self._replayed if isinstance(s, Replayed) else self._own for s in samples])
        return targets, weights * known

    def _distillation(
        self, batch: Batch, features: Tensor, ids: Tensor, logits: Tensor, weights: Tensor
    ) -> Tensor | None:
        """Summed cross-entropy against the old model, for unknown old labels."""
        if self.teacher is None:
            return None
        old = ids[ids < self._learner.kept]
        teacher = self.teacher.to(features.device)
        with torch.no_grad():
            wanted = teacher.score(teacher.encode(batch.images), old.to(features.device)).sigmoid()
        each = F.binary_cross_entropy_with_logits(logits[:, : len(old)], wanted, reduction="none")
        sure = F.binary_cross_entropy(wanted, wanted, reduction="none")  # so that 0 is reached by the old answers
        return ((each - sure) * (weights[:, : len(old)] == 0)).sum()


class WithReplay:
    """Training batches, each followed by a replay batch."""

    def __init__(self, batches: Batches, replay: Batches) -> None:
        self._batches = batches
        self._replay = replay

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """`replay` goes on without end."""
        for batch, replayed in zip(self._batches, self._replay, strict=False):
            yield Batch(torch.cat((batch.images, replayed.images)), (*batch.samples, *replayed.samples))

    def state(self) -> dict[str, Any]:
        return {"batches": self._batches.state(), "replay": self._replay.state()}

    def restore(self, state: dict[str, Any]) -> None:
        self._batches.restore(state["batches"])
        self._replay.restore(state["replay"])


def _mask(ids: Sequence[int], labels: int) -> Tensor:
    mask = torch.zeros(labels, dtype=torch.bool)
    mask[list(ids)] = True
    return mask
