"""A worker process whose tagger dies of one colour, for the test of the journal: `python -m … JOURNAL RESULT`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.unit.pipeline.rig import ColourTagger, Rig
from workers.vocabulary import Pixels

DEADLY = (9, 9, 9)
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


def main(journal: str, result: str) -> None:
    rig = Rig(partitions=1)
    rig.tagger = DeadlyTagger(Path(result + ".deaths"))
    for number in range(PICTURES):
        rig.put(f"{number}.png", DEADLY if number == GUILTY else (100 + number, 0, 0))
        rig.send(rig.event(f"{number}.png"))
    with rig.running(journal=Path(journal)):
        rig.settled()
    failures = [(f.stage, f.reason, letter.offset) for letter in rig.dead() for f in letter.failures]
    Path(result).write_text(json.dumps({"enriched": sorted(rig.enriched()), "failures": failures}))


if __name__ == "__main__":
    main(*sys.argv[1:])
