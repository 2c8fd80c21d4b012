"""All that `train fit` was told, as one TOML file that repeats the run."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, ValidationError

from workers.errors import Misconfigured
from workers.training.adapt import What
from workers.training.plan import Plan

NAME = "fit.toml"
_MAX_BYTES = 1024**2


class Recipe(BaseModel):
    """What is trained on what, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: str
    """A training set, or annotations of any format that `train import` reads."""
    parent: str
    """A bundle's folder, or "compact"."""
    what: What = "head"
    rank: int = Field(default=8, ge=1, le=1024)
    """Of LoRA."""
    absent: Literal["negative", "unknown"] = "negative"
    """What a label means that an image is not said to have."""
    guard: NonNegativeFloat = 1.0
    """Weight of the old model's answers, for labels that the bundle had; 0: none."""
    replay: str | None = None
    """A training set with old labels, mixed into every batch."""
    embeddings: str | None = None
    """Text embeddings of new labels by name, in a safetensors file; a label without one is learnt."""
    gamma: NonNegativeFloat = 2.0
    """How much less a negative counts the better it is known."""
    validation: float = Field(default=0.2, gt=0, lt=1)
    """Part of the images that is not trained on: thresholds are chosen and numbers measured there."""
    precision_floor: float | None = Field(default=None, gt=0, le=1)
    """The least precision of a tag that is shown; None: thresholds with the best F1."""
    least_positives: PositiveInt = 3
    """Of validation images; a label with fewer gets no threshold of its own."""
    workers: int = Field(default=2, ge=0, le=64)
    """Threads that read and decode images."""
    plan: Plan

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read what `write` wrote.

        Raises:
            Misconfigured: the file can't be read, or a value is wrong.
        """
        try:
            with path.open("rb") as file:
                return cls.model_validate(tomllib.loads(file.read(_MAX_BYTES).decode()))
        except OSError as error:
            raise Misconfigured(f"{path} can't be read: {error.strerror}.") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part)[:100] for part in first["loc"])
            raise Misconfigured(f"{path}: {': '.join(filter(None, [where, first['msg']]))}.") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise Misconfigured(f"{path} is not TOML: {error}.") from None

    def write(self, path: Path) -> None:
        own = self.model_dump(mode="json", exclude={"plan"}, exclude_none=True)
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in own.items())
        path.write_text(f"{lines}\n[plan]\n{self.plan.toml()}", encoding="utf-8")
