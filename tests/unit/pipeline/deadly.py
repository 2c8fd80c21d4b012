"""A worker process that dies of one picture, for the test of the journal: `python -m … JOURNAL RESULT WHERE`.

WHERE is "device", whose tagger dies of its colour, or "header", where the process dies while its header is read.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tests.unit.pipeline.rig import BUCKET, ColourTagger, Rig, png
from workers.vocabulary import Pixels

DEADLY = (9, 9, 9)
DEADLY_SIZE = 17
PICTURES = 12
GUILTY = 5


class DeadlyTagger(ColourTagger):
    def __init__(self, log: Path) -> None:
        super().__init__()
        self._log = log

    def forward(self, pictures: Sequence[Pixels]) -> Sequence[Any]:
        if any(tuple(picture[0, 0]) == DEADLY for picture in pictures):
            with self._log.open("a") as log:
                log.write(f"{len(pictures)}\n")
            os.abort()
        return super().forward(pictures)


def die_in_headers(log: Path) -> None:
    """Let Pillow abort when it opens the guilty picture, known by its size; log how many are opened at that time."""
    opening: list[object] = []
    intact = Image.open

    def opened(*arguments: Any, **options: Any) -> Any:
        opening.append(arguments)
        image = intact(*arguments, **options)
        if image.width == DEADLY_SIZE:
            with log.open("a") as lines:
                lines.write(f"{len(opening)}\n")
            os.abort()
        opening.pop()
        return image

    Image.open = opened


def main(journal: str, result: str, where: str) -> None:
    rig = Rig(partitions=1)
    log = Path(result + ".deaths")
    if where == "device":
        rig.tagger = DeadlyTagger(log)
    else:
        die_in_headers(log)
    for number in range(PICTURES):
        colour = DEADLY if number == GUILTY else (100 + number, 0, 0)
        rig.store.put(BUCKET, f"{number}.png", png(colour, DEADLY_SIZE if number == GUILTY else 16))
        rig.send(rig.event(f"{number}.png"))
    with rig.running(journal=Path(journal)):
        rig.settled()
    failures = [(f.stage, f.reason, letter.offset) for letter in rig.dead() for f in letter.failures]
    Path(result).write_text(json.dumps({"enriched": sorted(rig.enriched()), "failures": failures}))


if __name__ == "__main__":
    main(*sys.argv[1:])
