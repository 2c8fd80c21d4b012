"""A run of the training loop that is done in a moment: a small network with dropout learns to tell drawn numbers."""

import atexit
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tagstream_train import record
from tagstream_train.data.loader import Batch, Batches
from tagstream_train.data.samples import Sample
from tagstream_train.loop import Plan, Progress, Trained, train
from tagstream_train.plan import read_toml

IMAGES = 24
SIDE = 4
STOPPED = "stopped"
IMPORTED_LATE = ("torch._dynamo", "torch.utils.tensorboard", "accelerate")
THREADS = "threads-"


class Drawn(Batches):
    """Twenty-four images of noise, each from its own seed, in a new order each epoch."""

    def __init__(self, batch: int, rank: int = 0, world: int = 1) -> None:
        self._batch, self._rank, self._world = batch, rank, world
        self.epoch = self.number = 0

    def __len__(self) -> int:
        return IMAGES // (self._batch * self._world)

    def __iter__(self) -> Iterator[Batch]:
        while self.number < len(self):
            order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(self.epoch))
            start = (self.number * self._world + self._rank) * self._batch
            ids = order[start : start + self._batch].tolist()
            self.number += 1
            yield Batch(torch.stack([image(i) for i in ids]), tuple(Sample(image=f"{i}.png") for i in ids))
        self.epoch, self.number = self.epoch + 1, 0

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch + self.number // len(self), "number": self.number % len(self)}

    def restore(self, state: Mapping[str, int]) -> None:
        self.epoch, self.number = state["epoch"], state["number"]


def image(number: int) -> Tensor:
    return torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(number))


class Parity:
    """Learns whether an image's number is odd."""

    def __init__(self, *, dropout: float = 0.0, scale: float = 1.0) -> None:
        torch.manual_seed(1)
        self.model: nn.Module = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 1)
        )
        self._scale = scale

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        odd = torch.tensor([float(int(Path(sample.image).stem) % 2) for sample in batch.samples])
        logits = self.model(batch.images)[:, 0]
        total = nn.functional.binary_cross_entropy_with_logits(logits.float(), odd) * self._scale
        return {"total": total, "right": ((logits > 0) == odd.bool()).float().mean()}


def run(folder: Path, plan: Plan, objective: Parity | None = None, **options: Any) -> tuple[Trained, dict[str, Tensor]]:
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    objective = objective or Parity()
    trained = train(objective, Drawn(plan.batch, rank, world), plan, folder, **options)
    return trained, {name: tensor.clone() for name, tensor in objective.model.state_dict().items()}


def main(given: str, plan: str, dropout: str, stop_after: str = "0") -> None:
    folder = Path(given)

    def report(progress: Progress) -> None:
        if progress.step == int(stop_after):
            (folder / STOPPED).touch()
            time.sleep(600)

    vars(record)["draw"] = lambda lines, path: None  # matplotlib takes a second to load
    atexit.register(_write_threads, folder)  # handlers run in reverse order
    _, weights = run(folder, read_toml(Plan, Path(plan)), Parity(dropout=float(dropout)), report=report)
    if os.environ.get("RANK", "0") == "0":
        torch.save(weights, folder / "weights.pt")


def _write_threads(folder: Path) -> None:
    names = [(thread / "comm").read_text() for thread in Path("/proc/self/task").iterdir()]
    (folder / f"{THREADS}{os.environ.get('RANK', '0')}").write_text("".join(names))


if __name__ == "__main__":
    main(*sys.argv[1:])
