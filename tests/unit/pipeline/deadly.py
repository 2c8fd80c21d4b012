"""A worker process that one image kills, for the test of the journal: `python -m … JOURNAL RESULT WHERE`."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.harness import BUCKET, ColourTagger, Harness, png
from workers.types import Pixels

DEADLY = (9, 9, 9)
DEADLY_SIZE = 17
IMAGES = 12
DEADLY_ONE = 5


class DeadlyTagger(ColourTagger):
    def __init__(self, log: Path) -> None:
        super().__init__()
        self._log = log

    def forward(self, images: Sequence[Pixels]) -> Sequence[Any]:
        if any(tuple(image[0, 0]) == DEADLY for image in images):
            with self._log.open("a") as log:
                log.write(f"{len(images)}\n")
            os.abort()
        return super().forward(images)


def die_in_headers(log: Path) -> None:
    """Let Pillow abort when it opens the deadly image, known by its size; log how many are opened at that time."""
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
    harness = Harness(partitions=1)
    log = Path(result + ".deaths")
    if where == "device":
        harness.tagger = DeadlyTagger(log)
    else:
        die_in_headers(log)
    for number in range(IMAGES):
        colour = DEADLY if number == DEADLY_ONE else (100 + number, 0, 0)
        harness.store.put(BUCKET, f"{number}.png", png(colour, DEADLY_SIZE if number == DEADLY_ONE else 16))
        harness.send(harness.event(f"{number}.png"))
    harness.work(journal=Path(journal))
    failures = [(f.stage, f.reason, dead_letter.offset) for dead_letter in harness.dead() for f in dead_letter.failures]
    Path(result).write_text(json.dumps({"enriched": sorted(harness.enriched()), "failures": failures}))


if __name__ == "__main__":
    main(*sys.argv[1:])
