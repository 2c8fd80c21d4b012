"""The training loop: trains an objective, and resumes killed runs.

The `Objective` has the model and the loss, the batches the images, and the `Plan` the schedule.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tagstream_train import checkpoints
from tagstream_train.plan import Plan as Plan  # part of what this module offers
from tagstream_train.plan import rate
from tagstream_train.record import Hook, Record
from workers.errors import Misconfigured
from workers.models.execution import leave_triton_out

if TYPE_CHECKING:
    from tagstream_train.data.loader import Batch, Batches

TOTAL = "total"
"""The loss that is minimised."""
PATIENCE = 5
"""Epochs without a better validation after which a run that keeps its best weights ends."""


class Objective(Protocol):
    """A model and its losses."""

    model: nn.Module
    """Its parameters with `requires_grad` are trained. It is moved to the device, and back to the host at the end."""

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Scalars by name; `TOTAL` is minimised, the others are shown.

        The batch's tensors are on the device of the model. Gradients of several batches (accumulation, processes) are
        averaged, so a loss that is a mean over images gives the same gradient however a step's images are divided.
        Randomness comes from torch's generators alone. Plan's seed, step and process seed them before each batch.
        """
        ...


@dataclass(frozen=True)
class Progress:
    """A run's progress after a step."""

    step: int
    steps: int
    losses: Mapping[str, float]
    """The losses of this step by name, each the mean over its batches."""


@dataclass(frozen=True)
class Trained:
    """A finished run; its model has the best weights, or the averaged ones, if any."""

    steps: int
    images: int
    losses: Mapping[str, float]
    """The losses of the last step by name; empty if the run had ended before."""
    best: int | None = None
    """The epoch of the best weights, from 1; 0: the initial weights."""
    epochs: int = 0
    """That the run took."""


Report = Callable[[Progress], None]
Validate = Callable[[], Mapping[str, float]]
"""Numbers of the objective's model: on the device, in evaluation mode, with the moving average."""

_LINES = 1000
"""About the most lines of numbers by step that a run writes down."""


def train(
    objective: Objective,
    batches: Batches,
    plan: Plan,
    folder: Path,
    *,
    report: Report = lambda _: None,
    validate: Validate | None = None,
    best: tuple[str, float] | None = None,
    identity: Mapping[str, str] | None = None,
    hooks: Sequence[Hook] = (),
    apart: nn.Module | None = None,
) -> Trained:
    """Train to the plan's end, from the folder's checkpoint if any.

    The folder gets checkpoint.pt, metrics.jsonl, tensorboard/ and curves.png. Under torchrun every process
    calls this with its own batches; gradients are averaged, and the first process writes the files. On a CPU a run
    that was killed and resumed ends with the same bits as one that was not, with the same number of threads.

    Args:
        validate: called at the end of every epoch, in the first process, on the objective's model.
        best: a number of `validate`, and its initial value: the run keeps the weights with the largest, and ends after
            `PATIENCE` epochs without a larger one.
        identity: the run's dependencies besides the plan, by name. A checkpoint with other values is refused.
        apart: a part of the model, whose gradient is clipped by itself.

    Raises:
        Misconfigured: the checkpoint is of another run, there are no batches, or the loss is no number any more.
    """
    if len(batches) == 0:
        raise Misconfigured("There are fewer images than one batch has: give more images, or a smaller batch.")
    atexit.unregister(_leave)  # a process that fails ends at once: its group may wait for the others
    accelerator = _accelerator(plan)
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(objective, batches, plan, folder, accelerator, dict(identity or {}), best, apart)
    with _settings(plan, accelerator.device):
        trained = run.to_the_end(report, validate, hooks)
    atexit.register(_leave)
    return trained


def device_of(plan: Plan) -> torch.device:
    """The device of this process."""
    device: torch.device = _accelerator(plan).device
    return device


def rank() -> int:
    """This process's number in a run of torchrun, from 0."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes a run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _accelerator(plan: Plan) -> Any:
    """Device and processes, without accelerate's precision."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    if world() > 1:
        # Data parallelism imports it. Imported later, its functions keep the group, with threads that never end.
        import_module("torch.distributed.nn.functional")
    parallel = DistributedDataParallelKwargs(find_unused_parameters=True)
    cpu = plan.device == "cpu" or not torch.cuda.is_available()  # accelerate joins CPUs only on request
    return Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[parallel])


def _leave() -> None:
    """End the processes' group, and with it gloo's threads: one that needs Python at its exit aborts the process."""
    if torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


class _Step(nn.Module):
    """The objective's losses as a forward pass, for data parallelism."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.model = objective.model
        self._losses = objective.losses

    def forward(self, batch: Batch) -> Mapping[str, Tensor]:
        return self._losses(batch)


class _Run:
    """One process of a run."""

    def __init__(
        self,
        objective: Objective,
        batches: Batches,
        plan: Plan,
        folder: Path,
        accelerator: Any,
        identity: dict[str, str],
        best: tuple[str, float] | None,
        apart: nn.Module | None,
    ) -> None:
        self._batches = batches
        self._plan = plan
        self._folder = folder
        self._accelerator = accelerator
        self._identity = identity
        self._model = objective.model
        self._step = accelerator.prepare_model(_Step(objective))
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        alone = set() if apart is None else set(apart.parameters())
        self._clipped = ([p for p in self._parameters if p not in alone], [p for p in self._parameters if p in alone])
        leave_triton_out()  # optimizers import torch's compiler
        self._optimizer = torch.optim.AdamW(self._parameters, lr=plan.lr, weight_decay=plan.weight_decay)
        self._trained = nn.ParameterList(self._parameters)
        self._average = _average_of(self._trained, plan.ema) if plan.ema else None
        self._epoch = len(batches) / plan.accumulation
        """Steps of one epoch."""
        self._steps = plan.steps or -(-(plan.epochs or 0) * len(batches) // plan.accumulation)  # a float rounds up
        self._done = 0
        self._watched = None if best is None else best[0]
        self._best: dict[str, Any] = {} if best is None else self._weights_of(best[1])
        self._stale = 0
        """Validations since the best one."""

    def to_the_end(self, report: Report, validate: Validate | None, hooks: Sequence[Hook]) -> Trained:
        self._resume()
        losses: Mapping[str, float] = {}
        with self._record(hooks) as record:
            stream = self._endless()
            while self._done < self._steps and self._stale < PATIENCE:
                lr = rate(self._plan, self._done, self._steps, self._epoch)
                losses = self._train_step(stream, lr)
                if record is not None:
                    self._write_down(record, {**losses, "lr": lr}, validate)
                    report(Progress(self._done, self._steps, losses))
                if self._ended() or self._done % self._plan.checkpoint_every == 0:
                    self._save()
        self._swap()
        if self._best:
            checkpoints.put_back(self._model, self._best["weights"], self._folder)
        self._model.eval().to("cpu")
        images = self._done * self._plan.batch * self._plan.accumulation * self._accelerator.num_processes
        best = round(self._best["step"] / self._epoch) if self._best else None
        return Trained(self._done, images, losses, best, round(self._done / self._epoch))

    def _ended(self) -> bool:
        """Whether this was the last step; the first process decides."""
        if self._watched is not None and self._epoch_ended:
            if self._stale >= PATIENCE:
                self._accelerator.set_trigger()
            self._stale = PATIENCE if self._accelerator.check_trigger() else self._stale
        return self._done == self._steps or self._stale >= PATIENCE

    def _record(self, hooks: Sequence[Hook]) -> AbstractContextManager[Record | None]:
        if not self._accelerator.is_main_process:
            return nullcontext()
        return Record(self._folder, self._plan.model_dump(mode="json"), self._done, hooks)

    def _write_down(self, record: Record, numbers: Mapping[str, float], validate: Validate | None) -> None:
        step = self._done - 1
        if self._done == self._steps or self._done % max(1, self._steps // _LINES) == 0:
            record(step, numbers)
        if self._epoch_ended and validate is not None:
            record(step, self._validated(validate))

    @property
    def _epoch_ended(self) -> bool:
        """Whether the last step ended an epoch."""
        return self._done == self._steps or int(self._done / self._epoch) > int((self._done - 1) / self._epoch)

    def _train_step(self, stream: Iterator[Batch], lr: float) -> dict[str, float]:
        self._model.train()
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        shown: dict[str, float] = {}
        pieces = self._plan.accumulation
        for number, batch in enumerate(islice(stream, pieces)):
            self._seed(number)
            last = number == pieces - 1
            with nullcontext() if last else self._accelerator.no_sync(self._step):
                with torch.autocast(self._device.type, torch.bfloat16, enabled=self._plan.precision == "bf16"):
                    losses = self._step(self._placed(batch))
                self._accelerator.backward(losses[TOTAL] / pieces)
            for name, loss in losses.items():
                shown[name] = shown.get(name, 0.0) + float(loss.detach()) / pieces
        if not math.isfinite(shown[TOTAL]):
            raise Misconfigured(
                f"The loss is {shown[TOTAL]} at step {self._done + 1:,}: train with a lower learning rate, a longer "
                "warm-up, or precision fp32."
            )
        for parameters in self._clipped if self._plan.clip else ():
            self._accelerator.clip_grad_norm_(parameters, self._plan.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update_parameters(self._trained)
        self._done += 1
        return shown

    def _endless(self) -> Iterator[Batch]:
        while True:
            batch = None
            for batch in self._batches:
                yield batch
            if batch is None:
                raise Misconfigured("No image of the last epoch can be used.")

    def _placed(self, batch: Batch) -> Batch:
        return replace(batch, images=batch.images.to(self._device))

    @property
    def _device(self) -> torch.device:
        device: torch.device = self._accelerator.device
        return device

    def _seed(self, piece: int) -> None:
        """Seed torch without state that a checkpoint would need."""
        place = f"{self._plan.seed}/{self._done}/{piece}/{self._accelerator.process_index}"
        torch.manual_seed(int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest(), "big"))

    def _validated(self, validate: Validate) -> Mapping[str, float]:
        self._model.eval()
        self._swap()
        try:
            with torch.no_grad():
                found = validate()
            if self._watched is not None:
                score, self._stale = found.get(self._watched, -math.inf), self._stale + 1
                if score > self._best["score"]:
                    self._best, self._stale = self._weights_of(score), 0
            return found
        finally:
            self._swap()

    def _weights_of(self, score: float) -> dict[str, Any]:
        """A copy of the current weights on the host."""
        weights = {name: each.to("cpu", copy=True) for name, each in checkpoints.changing(self._model).items()}
        return {"score": score, "step": self._done, "weights": weights}

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange the trained parameters for their averages, if the plan has one."""
        for own, mean in zip(self._trained, self._average.parameters() if self._average else (), strict=False):
            kept = own.clone()
            own.copy_(mean)
            mean.copy_(kept)

    def _save(self) -> None:
        if self._accelerator.is_main_process:
            content = {
                "step": self._done,
                "weights": checkpoints.changing(self._model),
                "optimizer": self._optimizer.state_dict(),
                "ema": {} if self._average is None else self._average.state_dict(),
                "batches": self._batches.state(),
                "best": self._best,
                "stale": self._stale,
            }
            checkpoints.save(self._folder, content, self._plan, self._identity)
        self._accelerator.wait_for_everyone()

    def _resume(self) -> None:
        found = checkpoints.load(self._folder, self._plan, self._identity)
        if found is None:
            return
        self._done = found["step"]
        self._best, self._stale = dict(found["best"]), found["stale"]
        for each in (self._best, found):  # refuse other weights now, not at the end
            if each:
                checkpoints.put_back(self._model, each["weights"], self._folder)
        self._optimizer.load_state_dict(found["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(found["ema"])
        self._batches.restore(found["batches"])


def _average_of(parameters: nn.ParameterList, decay: float) -> AveragedModel:
    """Moving average of the parameters, which starts at their values.

    After step n it keeps min(decay, (1 + n) / (10 + n)) of itself, so that the first weights of a short run fade.
    """

    def mixed(mean: Tensor, new: Tensor, updates: Tensor | int) -> Tensor:
        step = int(updates) - 1
        return torch.lerp(mean, new, 1 - min(decay, (1 + step) / (10 + step)))

    average = AveragedModel(parameters, avg_fn=mixed)
    average.update_parameters(parameters)  # the first update copies
    return average


@contextmanager
def _settings(plan: Plan, device: torch.device) -> Iterator[None]:
    """Context with the plan's torch settings, restored at the end."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
