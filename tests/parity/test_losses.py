"""Training losses against the original programs, from captions and labels to the numbers that are minimised."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tagstream_train.data.loader import Batch
from tagstream_train.data.samples import Sample
from tagstream_train.features import Features
from tagstream_train.pretrain.objectives import Pretraining, Teachers
from tests.parity.subjects import REFERENCE, Subject, images
from tests.parity.test_answers import wordpiece as wordpiece  # a fixture
from workers.models.ram.wordpiece import WordPiece

_TEXTS = json.loads((REFERENCE / "losses.json").read_text())


@pytest.mark.slow
def test_losses_are_the_original_ones(subject: Subject, wordpiece: WordPiece, tmp_path: Path) -> None:
    wanted = _TEXTS["losses"][repr(subject)]
    labels, samples = _samples(subject)
    objective = Pretraining(subject.model, labels, wordpiece=wordpiece, teachers=_teachers(subject, tmp_path))
    try:
        found = objective.losses(Batch(images(), samples))
    finally:
        subject.model.requires_grad_(False)
    assert {name: float(found[name]) for name in wanted} == pytest.approx(wanted, rel=1e-4)
    assert float(found["total"]) == pytest.approx(_total(subject, wanted), rel=1e-4)


def _total(subject: Subject, of: dict[str, float]) -> float:
    if subject.kind == "ram_plus":
        return of["tagging"] + of["distillation"] + of["alignment"]
    return of["text"] * 2 + of.get("distillation", 0.0)


def _samples(subject: Subject) -> tuple[list[str], tuple[Sample, ...]]:
    """Names of all labels, and the two images with captions and labels of the reference."""
    labels = [f"label {number}" for number in range(subject.config.labels)]
    samples = []
    for row, (target, caption) in enumerate(zip(subject.arrays["loss_tag_target"], _TEXTS["captions"], strict=True)):
        ids = tuple(np.flatnonzero(target).tolist())
        if subject.kind != "ram_plus":
            for label, name in zip(ids, _TEXTS["tags"][subject.kind][row], strict=True):
                labels[label] = name
        samples.append(
            Sample(image=f"{row}.jpg", captions=(caption,), caption_tags=(ids,), tags=ids, sha256=f"{row}" * 64)
        )
    return labels, tuple(samples)


def _teachers(subject: Subject, folder: Path) -> Teachers:
    def file(name: str, keys: list[str]) -> Features | None:
        rows = subject.arrays.get(name)
        if rows is None:
            return None
        vectors: dict[str, Tensor] = dict(zip(keys, map(torch.from_numpy, rows), strict=True))
        save_file({key: row.contiguous() for key, row in vectors.items()}, folder / f"{name}.safetensors")
        return Features(folder / f"{name}.safetensors", 512)

    return Teachers(file("clip_feature", ["0" * 64, "1" * 64]), file("text_feature", _TEXTS["captions"]))
