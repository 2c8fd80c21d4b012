"""`train fit` of an encoder, after its classifiers were fitted."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
"""Old labels in each step's distillation, a new random choice. All of them would cost thousands of rows an image."""
_GAMMA = 2.0
"""Exponent of the asymmetric loss for negatives."""
_CROPS = Augment(scale=(0.5, 1.0))
"""Milder than in pre-training, as small sets have few images of each tag."""
_MAP = "validation_map"


class Fitting:
    """Asymmetric loss of the set's labels, distillation of the bundle's other labels.

    Args:
        negative: whether a label without a statement for an image is absent; else it is unknown.
        guard: weight of the distillation, with the old model's scores as targets; 0: off.
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
        """Summed cross-entropy against the old model, for some random guarded labels."""
        drawn = torch.randperm(len(self._guarded), device="cpu")[:GUARDED_AT_ONCE]
        ids = self._guarded[drawn].sort().values.to(features.device)
        with torch.no_grad():
            wanted = teacher.score(teacher.encode(images), ids).sigmoid()
        each = F.binary_cross_entropy_with_logits(self._learner.score(features, ids), wanted, reduction="sum")
        return each - F.binary_cross_entropy(wanted, wanted, reduction="sum")  # so that the old answers give 0


def judged_by(scored: Scored, ids: Sequence[int]) -> float:
    """The number by which the best weights are chosen."""
    return scored.map(ids) or 0.0


class Encoder:
    """Trains the encoder on the classifiers' images.

    Args:
        seen, held: the images that teach, and the images that measure.
    """

    def __init__(
        self, run: FitRun, data: Data, bundle: Bundle, network: Network, seen: Encoded, held: Encoded, tell: Tell
    ) -> None:
        self._run, self._data, self._bundle, self._tell = run, data, bundle, tell
        self._seen, self._held = seen, held
        with torch.random.fork_rng():
            torch.manual_seed(run.plan.seed)  # LoRA begins with drawn numbers
            self.learner = Learner(bundle, network, "lora" if run.what == "lora" else "all", rank=run.rank)
        self._objective = Fitting(self.learner, data.labels, negative=run.absent == "negative", guard=run.guard)

    def check(self, folder: Path) -> str:
        """Estimate the memory in a sentence, and check it and the folder. Writes no file.

        Raises:
            Misconfigured: the run needs more memory than is free, or the folder is another run's.
        """
        checkpoints.load(folder, self._run.plan, self._identity())
        teacher, first = self._objective.teacher, next(iter(self._batches(self._seen, batch=1)))
        learning = [each for each in self.learner.parameters() if each.requires_grad]
        estimated = memory.estimate(
            self._objective,
            first,
            self._run.plan,
            teachers=[] if teacher is None else [teacher],
            extra=sum(each.nbytes for each in learning) if device_of(self._run.plan).type == "cpu" else 0,  # the best
        )
        less = "lora or head" if self._run.what == "all" else "head"
        memory.check(estimated, f"; --what {less} takes less")
        return f"memory: {estimated}"

    def train(self, folder: Path, known: Scored, hooks: Sequence[Hook]) -> tuple[Scored, Scored, Trained]:
        """Train to the end of the plan or of progress.

        Args:
            known: targets of the images that measure.

        Returns:
            Their scores before and after, and the finished run.
        """
        self.learner.to(device_of(self._run.plan))
        before = self._scored(known, "measuring the classifiers")
        ids = self._data.labels.own
        trained = train(
            self._objective,
            self._batches(
                self._seen,
                batch=self._run.plan.batch,
                seed=self._run.plan.seed,
                augment=_CROPS,
                shuffle=True,
                rank=rank(),
                world=world(),
                epochs=None,
            ),
            self._run.plan,
            folder,
            report=lambda progress: self._tell("training, steps", progress.step, progress.steps),
            validate=lambda: {_MAP: judged_by(self._scored(before, "validating"), ids)},
            best=(_MAP, judged_by(before, ids)),
            identity=self._identity(),
            hooks=hooks,
        )
        self._objective.teacher = None  # frees memory: writing the bundle loads a second network
        self.learner.to(device_of(self._run.plan))
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
            workers=self._run.workers,
            **options,
        )

    def scores_of(self, images: Encoded, doing: str) -> NDArray[np.float32]:
        """(images, labels) scores by the current network."""
        rows: list[Tensor] = []
        device = next(self.learner.parameters()).device
        self.learner.eval()
        with torch.no_grad():
            for batch in self._batches(images, batch=min(self._run.plan.batch, 32)):
                rows += self.learner(batch.images.to(device)).sigmoid().cpu()
                self._tell(doing, len(rows), len(images.samples))
        return torch.stack(rows).numpy()

    def _scored(self, known: Scored, doing: str) -> Scored:
        """Score the images that measure with the current network."""
        return replace(known, scores=self.scores_of(self._held, doing))

    def _identity(self) -> dict[str, str]:
        """A checkpoint's dependencies besides the plan."""
        apart = {"plan", "data", "images", "validation_set", "parent", "workers", "allow_loss"}
        options = self._run.model_dump(mode="json", exclude=apart, exclude_none=True)
        texts = {name: str(value) for name, value in options.items()}
        return {"bundle": self._bundle.digest, "data": self._data.sha256, **texts}
