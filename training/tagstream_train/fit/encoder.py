"""`train fit` of an encoder, beneath classifiers that are fitted already."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from tagstream_train import checkpoints, memory
from tagstream_train.data.augment import Augment
from tagstream_train.data.loader import Batch, Batches, multi_hot
from tagstream_train.fit.data import Data, FitRun
from tagstream_train.fit.head import Encoded
from tagstream_train.fit.measures import Labels, Scored
from tagstream_train.fit.network import Learner, Network
from tagstream_train.loop import TOTAL, Trained, device_of, rank, train, world
from tagstream_train.losses import asymmetric
from tagstream_train.record import Hook, Tell
from workers.models.bundle import Bundle

GUARDED_AT_ONCE = 256
"""Old labels, drawn anew for each step, that are held to the old model's answers: all would cost thousands of rows an
image."""
_GAMMA = 2.0
"""How much less a negative counts the better it is known."""
_CROPS = Augment(scale=(0.5, 1.0))
"""Milder than in pre-training: small sets have few images of each tag."""
_MAP = "validation_map"


class Fitting:
    """Asymmetric loss of the set's labels, distillation of other old ones.

    Args:
        negative: whether a label that an image is not said to have is absent; else it is unknown.
        guard: weight of the distillation, whose targets are the old model's scores; 0: none.
    """

    def __init__(self, learner: Learner, labels: Labels, *, negative: bool = True, guard: float = 3.0) -> None:
        self.model: nn.Module = learner
        self._learner = learner
        self._labels = len(labels.names)
        self._own = torch.tensor(labels.own)
        self._guarded = torch.tensor(labels.others, dtype=torch.int64)
        self._negative = negative
        self._guard = guard
        wanted = guard and len(self._guarded)
        self.teacher = copy.deepcopy(learner).requires_grad_(False).eval() if wanted else None

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        features = self._learner.encode(batch.images)
        wanted = multi_hot(batch.samples, self._labels, absent="negative" if self._negative else "unknown")
        targets, weights = (part[:, self._own].to(features.device) for part in wanted)
        logits = self._learner.score(features, self._own.to(features.device))
        images = len(batch.samples)
        tagging = asymmetric(logits, targets, weights=weights, gamma_neg=_GAMMA) / images
        if self.teacher is None:
            return {TOTAL: tagging}
        guard = self._distillation(self.teacher.to(features.device), batch.images, features) / images
        return {"tagging": tagging, "guard": guard, TOTAL: tagging + self._guard * guard}

    def _distillation(self, teacher: Learner, images: Tensor, features: Tensor) -> Tensor:
        """Summed cross-entropy against the old model, of some guarded labels."""
        drawn = torch.randperm(len(self._guarded), device="cpu")[:GUARDED_AT_ONCE]
        ids = self._guarded[drawn].sort().values.to(features.device)
        with torch.no_grad():
            wanted = teacher.score(teacher.encode(images), ids).sigmoid()
        each = F.binary_cross_entropy_with_logits(self._learner.score(features, ids), wanted, reduction="sum")
        return each - F.binary_cross_entropy(wanted, wanted, reduction="sum")  # so that the old answers give 0


def judged_by(scored: Scored, ids: Sequence[int]) -> float:
    """The number that the best weights have most of."""
    return scored.map(ids) or 0.0


class Encoder:
    """A run on the images that the classifiers were fitted to.

    Args:
        seen, held: the images that teach and that measure.
    """

    def __init__(
        self, told: FitRun, data: Data, bundle: Bundle, network: Network, seen: Encoded, held: Encoded, tell: Tell
    ) -> None:
        self._told, self._data, self._bundle, self._tell = told, data, bundle, tell
        self._seen, self._held = seen, held
        with torch.random.fork_rng():
            torch.manual_seed(told.plan.seed)  # LoRA begins with drawn numbers
            self.learner = Learner(bundle, network, "lora" if told.what == "lora" else "all", rank=told.rank)
        self._objective = Fitting(self.learner, data.labels, negative=told.absent == "negative", guard=told.guard)

    def check(self, folder: Path) -> str:
        """Before anything is written: can it work? Returns the estimate of the memory.

        Raises:
            Misconfigured: it takes more memory than there is, or the folder is another run's.
        """
        checkpoints.load(folder, self._told.plan, self._identity())
        teacher, first = self._objective.teacher, next(iter(self._batches(self._seen, batch=1)))
        learning = [each for each in self.learner.parameters() if each.requires_grad]
        estimated = memory.estimate(
            self._objective,
            first,
            self._told.plan,
            teachers=[] if teacher is None else [teacher],
            extra=sum(each.nbytes for each in learning) if device_of(self._told.plan).type == "cpu" else 0,  # the best
        )
        less = "lora or head" if self._told.what == "all" else "head"
        memory.check(estimated, f"; --what {less} takes less")
        return f"memory: {estimated}"

    def train(self, folder: Path, known: Scored, hooks: Sequence[Hook]) -> tuple[Scored, Scored, Trained]:
        """Train to the end, or to the end of progress.

        Args:
            known: the images that measure, with their targets.

        Returns:
            Their scores before and after, and the run.
        """
        self.learner.to(device_of(self._told.plan))
        before = self._scored(known, "measuring the classifiers")
        ids = self._data.labels.own
        trained = train(
            self._objective,
            self._batches(
                self._seen,
                batch=self._told.plan.batch,
                seed=self._told.plan.seed,
                augment=_CROPS,
                shuffle=True,
                rank=rank(),
                world=world(),
                epochs=None,
            ),
            self._told.plan,
            folder,
            report=lambda progress: self._tell("training, steps", progress.step, progress.steps),
            validate=lambda: {_MAP: judged_by(self._scored(before, "validating"), ids)},
            best=(_MAP, judged_by(before, ids)),
            identity=self._identity(),
            hooks=hooks,
        )
        self._objective.teacher = None  # a second network is loaded to check the bundle
        self.learner.to(device_of(self._told.plan))
        return before, self._scored(before, "measuring the result"), trained

    def _batches(self, images: Encoded, **options: Any) -> Batches:
        manifest = self._bundle.manifest
        return Batches(
            images.samples,
            images=images.images,
            side=manifest.transform.size,
            mean=manifest.mean,
            std=manifest.std,
            transform=manifest.transform,
            workers=self._told.workers,
            **options,
        )

    def _scored(self, known: Scored, doing: str) -> Scored:
        """The images that measure, by the network as it is now."""
        rows: list[Tensor] = []
        device = next(self.learner.parameters()).device
        self.learner.eval()
        with torch.no_grad():
            for batch in self._batches(self._held, batch=min(self._told.plan.batch, 32)):
                rows += self.learner(batch.images.to(device)).sigmoid().cpu()
                self._tell(doing, len(rows), len(self._held.samples))
        return replace(known, scores=torch.stack(rows).numpy())

    def _identity(self) -> dict[str, str]:
        """What a checkpoint depends on besides the plan."""
        apart = {"plan", "data", "images", "validation_set", "parent", "workers", "allow_loss"}
        told = self._told.model_dump(mode="json", exclude=apart, exclude_none=True)
        return {"bundle": self._bundle.digest, "data": self._data.sha256, **{name: str(v) for name, v in told.items()}}
