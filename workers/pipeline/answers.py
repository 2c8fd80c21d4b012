"""Checks the answers of models. Each error names the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from schemas.enriched_image import CaptionText
from schemas.text import first_fault
from workers.errors import Broken
from workers.ports import Captioner, Model, Tagger
from workers.types import Caption, LabelScores


def one_each(model: Model, answers: Sequence[Any], images: int) -> Sequence[Any]:
    """Check that `forward` returned one answer for each image.

    Raises:
        Broken: the number of answers is not the number of images.
    """
    found = len(answers) if hasattr(answers, "__len__") else type(answers).__name__
    if found != images:
        raise _mistake(model, f"was given {images} images and returned {found} answers")
    return answers


def scores_of(tagger: Tagger, raw: Any) -> LabelScores:
    """Postprocess a tagger's answer and check it.

    Raises:
        ValueError: a score is NaN.
        Broken: ids and scores have different lengths, or an id or a score is out of range.
    """
    answer = tagger.postprocess(raw)
    ids, scores = np.asarray(answer.label_ids), np.asarray(answer.scores)
    if ids.ndim != 1 or ids.shape != scores.shape:
        raise _mistake(tagger, f"returned label ids of the shape {ids.shape} with scores of the shape {scores.shape}")
    # `count_nonzero` takes a fifth of the time of numpy's `all`, `min` and `diff` for small arrays.
    within = np.count_nonzero(scores >= 0) == scores.size == np.count_nonzero(scores <= 1)
    if not within and not np.isfinite(scores).all():
        raise ValueError(f"{tagger.name}: not a number among {scores.size} scores")
    if ids.size and (ids[0] < 0 or ids[-1] >= len(tagger.labels) or np.count_nonzero(ids[1:] <= ids[:-1])):
        raise _mistake(tagger, f"returned label ids that do not ascend between 0 and {len(tagger.labels) - 1}")
    if not within:
        raise _mistake(tagger, f"returned scores from {scores.min()} to {scores.max()}, outside 0 to 1")
    return answer


def caption_of(captioner: Captioner, raw: Any) -> Caption:
    """Postprocess a captioner's answer and check it. Raises Broken: the answer is not a caption."""
    answer: object = captioner.postprocess(raw)
    if not isinstance(answer, Caption):
        raise _mistake(captioner, f"returned a {type(answer).__name__} for a caption")
    try:
        shown = CaptionText(text=answer.text, score=answer.score, method=answer.method)
        shown.model_dump_json()  # pydantic accepts text that UTF-8 can't hold
    except ValueError as error:
        raise _mistake(captioner, f"returned a caption that can't be published ({first_fault(error)})") from None
    return Caption(shown.text, shown.score, shown.method)


def _mistake(model: Model, what: str) -> Broken:
    return Broken(f"the model {model.name} {what}: no image is to blame, and nothing of the batch was committed")
