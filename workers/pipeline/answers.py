"""Checks the answers of models. Each error names the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson
from pydantic import BaseModel

from schemas.enriched_image import CaptionText
from schemas.text import first_fault
from workers.errors import Broken
from workers.ports import Captioner, Model, ResultModel, Tagger
from workers.types import Caption, LabelScores

_RESULT_BYTES_MAX: Final = 1 << 20
_RESULT_COMMAS_MAX: Final = 100_000
"""Separators in a result: pydantic may make an error, of hundreds of bytes, for each item between them."""


def one_each(model: Model, answers: Sequence[Any], images: int) -> Sequence[Any]:
    """Raises Broken: the number of answers is not the number of images."""
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


def result_of(model: ResultModel, shape: type[BaseModel], raw: Any) -> dict[str, Any]:
    """Postprocess an added kind's answer to JSON values, and check it.

    Raises:
        ValueError: it does not read back as its kind's result (NaN, lone surrogates), or is too large.
        Broken: it is of another class.
    """
    answer: object = model.postprocess(raw)
    if not isinstance(answer, shape):
        raise _mistake(model, f"returned a {type(answer).__name__} for a {shape.__name__}")
    value = result_in(shape, answer.model_dump_json().encode())
    if value is None:
        raise ValueError(f"{model.name}: its {shape.__name__} has numbers that JSON lacks, or is above 1 MiB")
    return value


def result_in(shape: type[BaseModel], data: bytes) -> dict[str, Any] | None:
    """An added kind's result as JSON values; None: invalid, or of more than 1 MiB."""
    if len(data) > _RESULT_BYTES_MAX or data.count(b",") > _RESULT_COMMAS_MAX:
        return None
    try:
        orjson.loads(data)  # which has no NaN, and no number above all doubles
        value = shape.model_validate_json(data).model_dump(mode="json")
        orjson.dumps(value)  # outcomes and the cache are written so, and their whole numbers have 64 bits
    except (ValueError, TypeError):
        return None
    return value


def _mistake(model: Model, what: str) -> Broken:
    return Broken(f"the model {model.name} {what}: no image is to blame, and nothing of the batch was committed")
