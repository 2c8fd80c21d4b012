"""Draws a page of sampled outcomes, before and after."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from heapq import heappush, heappushpop
from typing import Any, Final

from schemas.printable import counted
from workers.page.html import Card, Mark, closing, escape, opening, render, search
from workers.retag.changes import PlannedChanges
from workers.retag.judgement import Judgement
from workers.retag.plan_file import Planned

_STYLE: Final = """
.change { display: grid; gap: 4px; margin: 0; padding: 0; list-style: none; font-size: 13px; }
.change del { color: var(--bad); } .change ins { text-decoration: none; font-weight: 600; }
.card > .blank { display: none !important; }
"""


class Sample:
    """Some of the outcomes that are made anew: the same subjects each time, spread over all of them.

    Args:
        most: on the page; 0: there is none. Twice as many are held, for those that a later record overtakes.
        changes: gets all that is made anew.
    """

    def __init__(self, most: int, changes: PlannedChanges | None = None) -> None:
        self._most = most
        self._changes = changes
        self._held: dict[bytes, tuple[tuple[int, int], Card]] = {}
        self._hashes: list[tuple[int, bytes]] = []
        self._planned: list[Card] = []

    def wants(self, subject: bytes) -> bool:
        """Whether `take` would hold an outcome of this subject."""
        return self._changes is not None or self._draws(subject)

    def _draws(self, subject: bytes) -> bool:
        if not self._most:
            return False
        return subject in self._held or len(self._held) < 2 * self._most or _entry(subject) > self._hashes[0]

    def take(self, subject: bytes, judgement: Judgement, place: tuple[int, int]) -> None:
        """Offer an outcome, with its record's partition and offset."""
        if self._changes is not None:
            self._changes.take(place, judgement)
        if not self._draws(subject):
            return
        if subject not in self._held:
            if len(self._held) < 2 * self._most:
                heappush(self._hashes, _entry(subject))
            else:
                del self._held[heappushpop(self._hashes, _entry(subject))[1]]
        self._held[subject] = place, _card(judgement)

    def seen(self, planned: Iterable[Planned]) -> Iterator[Planned]:
        """Pass on what is planned: of what is held only that is shown."""
        for each in planned if self._changes is None else self._changes.seen(planned):
            place, card = self._held.get(each.subject.encode(), ((-1, -1), None))
            if card is not None and place == each[:2]:
                self._planned.append(card)
            yield each

    def page(self, topic: str) -> str:
        """The page, as HTML."""
        shown = self._planned[: self._most]
        lead = f"{counted(len(shown), 'outcome')} of {topic}, as they are and as today's settings would make them."
        head = opening("tagstream: a plan to retag", "Before and after", lead, _STYLE)
        cards = "\n".join(map(render, shown))
        return f'{head}\n{search()}\n<div class="cards">\n{cards}\n</div>\n{closing("Nothing has been changed yet.")}'


def _entry(subject: bytes) -> tuple[int, bytes]:
    return -int.from_bytes(hashlib.blake2b(subject, digest_size=8).digest()), subject


def _card(judgement: Judgement) -> Card:
    made = judgement.made
    assert made is not None
    before, after = _shown(made.outcome), _shown(made.parts)
    lines = [f"<del>{escape(name)}</del>" for name in before["tags"] if name not in after["tags"]]
    lines += [f"<ins>+ {escape(name)}</ins>" for name in after["tags"] if name not in before["tags"]]
    if before["caption"] is not None and before["caption"] != after["caption"]:
        lines.append(f"<del>{escape(before['caption'])}</del>")
    return Card(
        made.outcome["subject"],
        caption=after["caption"],
        tags=list(after["tags"].items()),
        mark=Mark(judgement.kind.reason.replace(",", ", "), "warn"),
        foot=f'<ul class="change">{"".join(f"<li>{line}</li>" for line in lines)}</ul>',
        document={"before": before, "after": after},
        titled="Before and after as JSON",
    )


def _shown(fields: Mapping[str, Any]) -> dict[str, Any]:
    caption = fields.get("caption")
    return {
        "tags": {tag["name"]: tag["score"] for tag in fields.get("tags", ())},
        "caption": None if caption is None else caption["text"],
    }
