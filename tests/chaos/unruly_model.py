"""A tagger and a captioner that misbehave on command, in the form of another team's package.

A test copies it into a folder with an entry point. It knows only two files in that folder: `orders.json`, read before
each batch, and `diary.jsonl`, a line for each.
"""

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workers.errors import Broken
from workers.models.bundle import Bundle
from workers.models.device import Device, Precision
from workers.types import Caption, LabelScores, Pixels, Transform

LABELS = ("red", "green", "blue", "any")
SIDE = 16
CURSED = (255, 0, 255)
"""Images of this colour make both models raise, whatever else is in the batch."""
UNCOUNTABLE = (0, 255, 255)
"""Of this colour the tagger makes scores that are no numbers."""
SPEECHLESS = (255, 255, 0)
"""On this colour only the captioner raises."""
DEADLY = (255, 128, 0)
"""On this colour the tagger kills the process, as a driver that segfaults."""

_FOLDER = Path(__file__).parent


class _Model:
    precision = "fp32"
    transform = Transform(SIDE)
    random_weights = False
    role: str

    def __init__(self, bundle: Bundle) -> None:
        self.name = bundle.name
        self.digest = bundle.digest
        self.max_batch = 0
        self.orders: dict[str, Any] = {}
        self._seen = 0

    def warm_up(self) -> None:
        """Warm-up is empty: faults appear at work."""

    def self_test_image(self) -> Pixels:
        return np.full((SIDE, SIDE, 3), 128, np.uint8)

    def obey(self, images: Sequence[Pixels]) -> None:
        """Raise, run out of memory, hang or dawdle, as the orders say; each is in the diary before it happens."""
        self.orders = json.loads((_FOLDER / "orders.json").read_text()).get(self.role, {})
        self._seen += len(images)
        if "slow_s" in self.orders:
            time.sleep(self.orders["slow_s"])
        if len(images) > self.orders.get("memory", len(images)):
            self._note("out of memory", images)
            raise MemoryError
        if self.orders.get("hangs"):
            self._note("hangs", images)
            threading.Event().wait()
        if self.orders.get("broken") or self._seen > self.orders.get("good", self._seen):
            self._note("fails", images)
            raise RuntimeError("no kernel image is available")
        self._note("runs", images)

    def _note(self, what: str, images: Sequence[Pixels]) -> None:
        entry = {"role": self.role, "what": what, "images": len(images), "at": time.monotonic()}
        with (_FOLDER / "diary.jsonl").open("a") as diary:
            diary.write(json.dumps(entry) + "\n")


class UnrulyTagger(_Model):
    """Scores an image by its mean colour, all scores lower on command; returns its answers unchecked."""

    role = "tagger"
    _lied = False
    labels: Sequence[str] = LABELS
    translations: Mapping[str, Sequence[str]] = {}
    thresholds: Sequence[float] = (0.5,) * len(LABELS)
    profiles: Mapping[str, Sequence[float]] = {}
    floor = 0.0

    def forward(self, images: Sequence[Pixels]) -> Sequence[Any]:
        self.obey(images)
        if any(_is(image, DEADLY) for image in images):
            self._note("dies", images)
            os.abort()
        if any(_is(image, CURSED) for image in images):
            self._note("raises", images)
            raise RuntimeError("index out of range in self")
        rows = [self._row(image) for image in images]
        if len(images) >= self.orders.get("lies", len(images) + 1) or self._lies_once():
            self._note("lies", images)
            rows = [1 - row for row in rows]
        return rows[1:] if self.orders.get("loses_one") else rows

    def postprocess(self, raw: Any) -> LabelScores:
        ids = np.arange(len(LABELS), dtype=np.int32)
        return LabelScores(ids, raw[1:] if self.orders.get("misshapen") else raw)

    def check_self_test(self, answer: Any) -> None:
        if not np.array_equal(answer, self._row(self.self_test_image())):
            raise Broken(f"{self.name} does not give its right answer.")

    def _lies_once(self) -> bool:
        new = "lies_once" in self.orders and not self._lied
        self._lied = self._lied or new
        return new

    def _row(self, image: Pixels) -> Any:
        if self.orders.get("not_a_number") or _is(image, UNCOUNTABLE):
            return np.full(len(LABELS), np.nan, np.float32)
        scores = np.append(image.reshape(-1, 3).mean(0) / 255, 1)
        return (scores * self.orders.get("dim", 1)).astype(np.float32)


class UnrulyCaptioner(_Model):
    role = "captioner"
    options_digest = "none"

    def guide(self, names: Sequence[str]) -> str:
        return " and ".join(names)

    def forward(self, images: Sequence[Pixels], guides: Sequence[str]) -> Sequence[Any]:
        self.obey(images)
        if any(_is(image, CURSED) or _is(image, SPEECHLESS) for image in images):
            self._note("raises", images)
            raise RuntimeError("no end of the sentence was found")
        return guides[1:] if self.orders.get("loses_one") else guides

    def postprocess(self, raw: Any) -> Caption:
        return Caption(f"something {raw}", None, "greedy")


def _is(image: Pixels, colour: tuple[int, int, int]) -> bool:
    return tuple(image[0, 0].tolist()) == colour


def build_tagger(
    bundle: Bundle, device: Device, precision: Precision, subset: Sequence[int] | None = None
) -> UnrulyTagger:
    return UnrulyTagger(bundle)


def build_captioner(bundle: Bundle, device: Device, precision: Precision) -> UnrulyCaptioner:
    return UnrulyCaptioner(bundle)
