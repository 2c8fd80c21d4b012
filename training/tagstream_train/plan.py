"""A training plan, and the TOML files that repeat a run."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from schemas.text import first_fault
from workers.errors import Misconfigured
from workers.models.files import content_of

_MAX_BYTES = 16 * 1024
"""A name of n parts takes tomllib time and memory in proportion to n²: 0.2 GB for one of that size."""

Values = TypeVar("Values", bound=BaseModel)


def read_toml(kind: type[Values], path: Path) -> Values:
    """
    Raises:
        Misconfigured: the file can't be read, or a value is wrong.
    """
    try:
        return kind.model_validate(tomllib.loads(content_of(path, _MAX_BYTES).decode()))
    except OSError as error:
        raise Misconfigured(f"{path} can't be read: {error.strerror}.") from None
    except ValidationError as error:
        raise Misconfigured(f"{path}: {first_fault(error)}.") from None
    except (ValueError, RecursionError) as error:
        raise Misconfigured(f"{path} is not TOML: {error}.") from None


def toml_of(values: BaseModel) -> str:
    """All values as TOML, defaults too, without None."""
    return "\n".join(_table(values.model_dump(mode="json", exclude_none=True), ())).lstrip("\n") + "\n"


def _table(values: Mapping[str, Any], name: tuple[str, ...]) -> Iterator[str]:
    """Yield a table's values, then its nested tables."""
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lists = {
        key: value for key, value in values.items() if isinstance(value, list) and isinstance((value or [0])[0], dict)
    }
    yield from (f"{key} = {json.dumps(value)}" for key, value in values.items() if key not in tables | lists)
    for key, table in tables.items():
        yield f"\n[{'.'.join((*name, key))}]"
        yield from _table(table, (*name, key))
    for key, entries in lists.items():
        for entry in entries:
            yield f"\n[[{'.'.join((*name, key))}]]"
            yield from _table(entry, (*name, key))


class Exact(BaseModel):
    """Base of models of files: frozen, without unknown fields, finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Plan(Exact):
    """Every number of a run besides model, data and processes.

    A step is one change of the weights; it sees `batch` x `accumulation` images in each process.
    """

    epochs: PositiveInt | None = None
    """How often every image is seen; give this or `steps`."""
    steps: PositiveInt | None = None
    batch: PositiveInt = 32
    """Images that are computed together, in each process."""
    accumulation: PositiveInt = 1
    """Batches in one step; their gradients are averaged."""

    lr: PositiveFloat = 1e-4
    """The learning rate after the warm-up."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the rate grows linearly from `warmup_from` to `lr`."""
    warmup_from: NonNegativeFloat = 5e-7
    decay: Literal["cosine", "exponential", "constant"] = "cosine"
    """From `lr` to `floor` over the whole run; or by `decay_factor` each epoch, never below `floor`; or not at all."""
    decay_factor: float = Field(default=0.9, gt=0, le=1)
    decay_at: Literal["step", "epoch"] = "step"
    """Whether the rate falls a little each step, or once an epoch as in the papers."""
    floor: NonNegativeFloat = 0.0

    weight_decay: NonNegativeFloat = 0.05
    clip: NonNegativeFloat = 1.0
    """The longest gradient that is not shortened, of an alignment part by itself; 0: any."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """The decay of the weights' moving average, which becomes the result; 0: the result is the last weights."""

    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu"] = "auto"
    threads: PositiveInt | None = None
    """Threads that a CPU computes with; None: one a core. The last bits of a result depend on it."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    checkpoint_every: PositiveInt = 500
    """Steps between checkpoints; there is one at the end too."""

    @model_validator(mode="after")
    def _ends_once(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        if self.floor > self.lr:
            raise ValueError(f"the floor {self.floor:g} is above the learning rate {self.lr:g}")
        return self


def rate(plan: Plan, step: int, steps: int, steps_per_epoch: float) -> float:
    """The learning rate of a step, counted from 0.

    The decay also counts the warm-up's steps, as in the official programs: a run of one epoch with a warm-up of one
    epoch ends at `lr`.
    """
    if step < plan.warmup_steps:
        return plan.warmup_from + (plan.lr - plan.warmup_from) * step / plan.warmup_steps
    epochs = steps / steps_per_epoch
    epoch = step / steps_per_epoch
    if plan.decay_at == "epoch":
        epoch = math.floor(epoch + 1e-9)
    if plan.decay == "cosine":
        return plan.floor + (plan.lr - plan.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / epochs)))
    if plan.decay == "exponential":
        return float(max(plan.floor, plan.lr * plan.decay_factor**epoch))
    return plan.lr
