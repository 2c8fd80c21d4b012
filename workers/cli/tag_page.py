"""The page of `tagstream tag --page`: pictures, tags, captions and a search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from PIL import Image

from workers.assembly.local_files import FailedFile, TaggedFile
from workers.files import whole_file
from workers.page.html import PICTURE, Card, Mark, closing, encoded, escape, model_note, opening, render, search
from workers.ports import Tagger
from workers.types import PictureFacts, Transform

TRANSFORM = Transform(PICTURE[0], "pad", interpolation="bicubic", exif_transpose=True)
"""Makes a page's pictures in the decoders, where hostile bytes do no harm."""
MOST = 1_000
"""Images on a page: a browser holds all of them in memory, about a quarter of a megabyte each."""


class Page:
    """An HTML page with cards for the first `MOST` results. Call `begin` once the tagger is known, and `end` once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._tagger: Tagger | None = None
        self._shown = 0
        self._left_out = 0

    def _write(self, text: str) -> None:
        self._file.write(text.encode())

    def begin(self, tagger: Tagger) -> None:
        self._tagger = tagger
        note = model_note(tagger.name, len(tagger.labels))
        self._write(opening("tagstream: what the model says", "What the model says", note))
        self._write(f'\n{search()}\n<div class="cards">\n')

    def add(self, name: str, result: TaggedFile | FailedFile, document: dict[str, Any]) -> None:
        """Add a card for the result as `--json` has it."""
        if self._shown == MOST:
            self._left_out += 1
            return
        self._shown += 1
        self._write(f"{render(_card(name, result, document))}\n")

    def end(self) -> None:
        tagger = self._tagger
        by = "" if tagger is None else f"Tagged by {tagger.name} ({tagger.precision}), weights {tagger.digest[:12]}."
        more = (
            f" Left out of this page, which has {MOST:,} files at most: {self._left_out:,}." if self._left_out else ""
        )
        self._write(f"</div>\n{closing(by + more)}")


@contextmanager
def page_at(path: Path) -> Iterator[Page]:
    """Write a page to `path`, replacing it once whole. Raises Misconfigured: it can't be written."""
    with whole_file(path) as file:
        page = Page(file)
        yield page
        page.end()


def told_by(result: TaggedFile) -> dict[str, str]:
    """Facts of the picture and results of roles for people."""
    told = result.told or PictureFacts()
    place = None if told.place is None else "{:.5f}, {:.5f}".format(*told.place)
    facts = {"taken": told.taken_at, "place": place, "missing": told.missing}
    for kind, value in result.results.items():
        facts |= {name: " ".join(text.split()) for name, text in kind.rows(value)}
    return {name: value for name, value in facts.items() if value is not None}


def _card(name: str, result: TaggedFile | FailedFile, document: dict[str, Any]) -> Card:
    if isinstance(result, FailedFile):
        why = {"reason": result.reason, "detail": result.detail}
        return Card(name, blank="no picture", mark=Mark("not tagged", "bad"), facts=why, document=document)
    facts = result.facts
    return Card(
        name,
        None if result.picture is None else encoded(Image.fromarray(result.picture)),
        caption=result.caption,
        tags=[(tag["name"], tag["score"]) for tag in document["tags"]],
        facts=told_by(result),
        foot=f'<div class="foot">{escape(facts.format.upper())}, {facts.width} × {facts.height}</div>',
        document=document,
    )
