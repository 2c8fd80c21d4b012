"""A bundle's model stage by stage, so that each can be timed alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import arithmetic
from workers.models.bundle import Bundle
from workers.models.device import Device, Precision
from workers.models.load import uses_of
from workers.models.ram.adapters import build_captioner, build_tagger
from workers.models.ram.config import from_json
from workers.models.ram.decoding import decode
from workers.models.ram.engine import engine_of
from workers.models.ram.wordpiece import PROMPT_IDS, SEP, WordPiece
from workers.models.tagger import PIECE
from workers.types import Pixels, Subset

Made = TypeVar("Made")

SUBSET = 200
"""Labels of the profile that is timed beside all."""
TAGGING = "tagging"
"""The tagger in one go."""


@dataclass
class Answers:
    """What came out for some images."""

    logits: list[NDArray[np.float32]] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)


def is_stage(name: str) -> bool:
    """Whether the time of what has this name is a part of the whole, and no other's too."""
    return name != TAGGING and "labels" not in name


def subject_of(bundle: Bundle, device: Device, precision: Precision) -> Subject:
    """One bundle in one precision, with all that it can do."""
    made = CaptioningSubject if "captioner" in uses_of(bundle) else Subject
    return made(bundle, device, precision)


class Subject:
    """A bundle that tags, in one precision."""

    def __init__(self, bundle: Bundle, device: Device, precision: Precision) -> None:
        self.bundle = bundle
        self.device = device
        self.precision = precision
        self.config = from_json(bundle.manifest.kind, bundle.manifest.architecture)
        self.tagger = build_tagger(bundle, device, precision)
        self.engine = engine_of(bundle, device, precision)
        labels = self.engine.model.labels
        self.profile = Subset(tuple(range(0, labels, max(1, labels // SUBSET)))[:SUBSET])
        self.profiled_head = f"head, {len(self.profile.ids)} labels"
        self.profiled_tagging = f"tagging, {len(self.profile.ids)} labels"

    def guides(self, logits: Sequence[NDArray[np.float32]]) -> list[str]:
        """The guide of each image: the tags that are shown."""
        thresholds = np.asarray(self.tagger.thresholds, np.float32)
        scores = [self.tagger.postprocess(row) for row in logits]
        return [
            " | ".join(self.tagger.labels[i] for i in each.label_ids[each.scores > thresholds[each.label_ids]].tolist())
            for each in scores
        ]

    def answers(self, images: Sequence[Pixels], guides: Sequence[str] | None = None) -> Answers:
        """Of the whole model, image by image. `guides` None: what its own tags say."""
        found = Answers()
        for index, image in enumerate(images):
            (row,) = self.tagger.forward([image])
            found.logits.append(row)
            guide = self.guides([row])[0] if guides is None else guides[index]
            found.captions += self.captions(image, guide)
        return found

    def captions(self, image: Pixels, guide: str) -> list[str]:
        """The image's caption, of a bundle that makes one."""
        return []

    def stages(self, images: Sequence[Pixels], guides: Sequence[str]) -> dict[str, tuple[float, int]]:
        """Seconds and operations of every stage for these images, as one batch; and of what is no stage (`is_stage`):
        the tagger in one go, where stages overlap, and what an event's profile makes of the head and of all tagging."""
        with self.device.run():
            uploading, pieces = self._timed(lambda: list(self.device.stream(images, PIECE)))
            encoding, tokens = self._timed(lambda: self.engine.tokens(pieces))
            encoder = len(images) * arithmetic.encoder(self.config.encoder)
            return {
                "upload": (uploading, 0),
                "encoder": (encoding, encoder),
                **self._tagging(images, tokens, encoder),
                **self._captioning(tokens, guides),
            }

    def _tagging(self, images: Sequence[Pixels], tokens: Tensor, encoder: int) -> dict[str, tuple[float, int]]:
        model, count = self.engine.model, len(images)
        subset = torch.tensor(self.profile.ids, device=self.device.where)
        all_labels, few = (count * arithmetic.head(self.config, labels) for labels in (model.labels, len(subset)))
        scoring, logits = self._timed(lambda: self.engine.score(model.embed(tokens)))
        fetching, _ = self._timed(lambda: logits.cpu().numpy())
        whole, _ = self._timed(lambda: self.tagger.forward(images))
        scoring_few, _ = self._timed(lambda: self.engine.score(model.embed(tokens), subset))
        whole_few, _ = self._timed(lambda: self.tagger.forward_subsets(images, [self.profile] * count))
        return {
            "head": (scoring, all_labels),
            "results": (fetching, 0),
            TAGGING: (whole, encoder + all_labels),
            self.profiled_head: (scoring_few, few),
            self.profiled_tagging: (whole_few, encoder + few),
        }

    def _captioning(self, tokens: Tensor, guides: Sequence[str]) -> dict[str, tuple[float, int]]:
        return {}

    def _timed(self, do: Callable[[], Made]) -> tuple[float, Made]:
        self.device.synchronise()
        started = time.perf_counter()
        made = do()
        self.device.synchronise()
        return time.perf_counter() - started, made


class CaptioningSubject(Subject):
    """A bundle that tags and writes captions."""

    def __init__(self, bundle: Bundle, device: Device, precision: Precision) -> None:
        super().__init__(bundle, device, precision)
        self.captioner = build_captioner(bundle, device, precision)
        self._wordpiece = WordPiece.read(bundle.vocabulary)

    def captions(self, image: Pixels, guide: str) -> list[str]:
        (tokens,) = self.captioner.forward([image], [guide])
        return [self.captioner.postprocess(tokens).text]

    def _captioning(self, tokens: Tensor, guides: Sequence[str]) -> dict[str, tuple[float, int]]:
        model = self.captioner.model
        rows = [self._wordpiece.guide(guide) for guide in guides]
        ids, mask = (torch.tensor(part, device=self.device.where) for part in zip(*rows, strict=True))
        encoding, states = self._timed(lambda: model.guide(ids, mask, tokens))
        decoding = self.captioner.decoding
        writing, texts = self._timed(lambda: decode(model.text.decoder, states, PROMPT_IDS, SEP, decoding))
        beams = decoding.beams if decoding.method == "beam" else 1
        return {
            "tag encoder": (encoding, len(guides) * arithmetic.tag_encoder(model.config)),
            "decode": (writing, sum(arithmetic.decoder(model.config.text, len(each.ids), beams) for each in texts)),
        }
