"""Thresholds for generating, by agreement with a set."""

from __future__ import annotations

from typing import Final

from tagstream_train.data.images import Images
from tagstream_train.data.opening import Opened
from tagstream_train.data.samples import DataSet
from tagstream_train.data.splits import split
from tagstream_train.evaluate import score_tags
from tagstream_train.thresholds import OFF, choose, precision_floor
from workers.ports import Tagger

HELD: Final = 0.1
"""Part of a set that agreement is measured on: the images that `train pretrain` holds back."""


def agreeing(tagger: Tagger, dataset: DataSet, images: Images, least: float) -> list[float]:
    """Each label's threshold for at least this agreement with the set.

    Tags that were parsed of captions name but a part of what is there, so more are true than agree. The best F1, which
    a bundle's thresholds have, gives a label that a model has not learned to every image; here it is given to none.

    Raises:
        Misconfigured: the model and the set have no label in common, or no image that was held back can be used.
    """
    held = split(dataset, {"train": 1 - HELD, "val": HELD})["val"]
    tagged = score_tags(tagger, Opened(dataset.header.name, held, dataset.labels, images))
    chosen = choose(tagged.scores, tagged.targets, precision_floor(least))
    thresholds = {name: each.value for name, each in zip(tagged.labels, chosen, strict=True)}
    return [thresholds.get(label, OFF) for label in tagger.labels]
