"""What a bundle's model can be used as: how each use is tried without an event, and compared with golden answers.

A use is a field of the event's `models`, a setting of the worker, and a function `build_<use>` of a builder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from workers.models.agreement import Agreement, of_captions, of_rows
from workers.models.bundle import Golden
from workers.ports import Captioner, Tagger
from workers.types import Pixels


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a model.

    Args:
        trial: runs a batch as an event would that tells nothing but its image; what tuning times.
        agreement: how far a model of a whole bundle gives its golden answers; None: it has none for this use.
    """

    trial: Callable[[Any, Sequence[Pixels]], Sequence[Any]]
    agreement: Callable[[Any, Golden], Agreement | None]


def _tag(tagger: Tagger, images: Sequence[Pixels]) -> Sequence[Any]:
    return tagger.forward(images)


def _tags_agree(tagger: Tagger, golden: Golden) -> Agreement | None:
    if not golden.outputs.size:
        return None
    return of_rows(tagger, list(golden.outputs[:, : len(tagger.labels)]), tagger.forward(list(golden.pixels)))


def _caption(captioner: Captioner, images: Sequence[Pixels]) -> Sequence[Any]:
    return captioner.forward(images, [captioner.guide([])] * len(images))


def _captions_agree(captioner: Captioner, golden: Golden) -> Agreement | None:
    if not golden.captions:
        return None
    raws = captioner.forward(list(golden.pixels), golden.guides)
    return of_captions(golden.captions, [captioner.postprocess(raw).text for raw in raws])


USES: Final = {
    "tagger": Use(_tag, _tags_agree),
    "captioner": Use(_caption, _captions_agree),
}
