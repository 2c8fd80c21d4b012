"""Draws a page of sampled outcomes, before and after."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Final

from schemas.printable import counted
from workers.page.html import Card, Mark, closing, escape, opening, render, search
from workers.retag.judging import Rescored
from workers.retag.plan_file import Planned

_STYLE: Final = """
.change { display: grid; gap: 4px; margin: 0; padding: 0; list-style: none; font-size: 13px; }
.change del { color: var(--bad); } .change ins { text-decoration: none; font-weight: 600; }
.card > .blank { display: none !important; }
"""


@dataclass(frozen=True, slots=True)
class BeforeAndAfter:
    """One outcome, and what it becomes.

    Args:
        before, after: tags and caption, as events have them.
    """

    subject: str
    place: tuple[int, int]
    changes: tuple[str, ...]
    before: Mapping[str, Any]
    after: Mapping[str, Any]


class Sample:
    """Some of the outcomes that are made anew: the same subjects each time, spread over all of them.

    Args:
        most: on the page. Twice as many are held, for those that a later record overtakes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[str, BeforeAndAfter] = {}
        self._hashes: list[tuple[int, str]] = []
        self._planned: list[BeforeAndAfter] = []

    def take(self, made: Rescored, place: int, at: int) -> None:
        """Offer an outcome, with its record's partition and offset."""
        subject = made.outcome["subject"]
        if subject not in self._held:
            entry = -int.from_bytes(hashlib.blake2b(subject.encode(), digest_size=8).digest()), subject
            if len(self._hashes) >= 2 * self._most:
                if entry <= self._hashes[0]:
                    return
                del self._held[heappop(self._hashes)[1]]
            heappush(self._hashes, entry)
        self._held[subject] = BeforeAndAfter(
            subject, (place, at), made.changes, _shown(made.outcome), _shown(made.parts)
        )

    def seen(self, planned: Iterable[Planned]) -> Iterator[Planned]:
        """Pass on what is planned: of what is held only that is shown."""
        for each in planned:
            held = self._held.get(each.subject)
            if held is not None and held.place == (each.partition, each.offset):
                self._planned.append(held)
            yield each

    def page(self, topic: str) -> str:
        """The page, as HTML."""
        shown = self._planned[: self._most]
        lead = f"{counted(len(shown), 'outcome')} of {topic}, as they are and as today's settings would make them."
        cards = "\n".join(render(_card(each)) for each in shown)
        head = opening("tagstream: a plan to retag", "Before and after", lead, _STYLE)
        return f'{head}\n{search()}\n<div class="cards">\n{cards}\n</div>\n{closing("Nothing has been changed yet.")}'


def _shown(fields: Mapping[str, Any]) -> dict[str, Any]:
    caption = fields.get("caption")
    return {
        "tags": {tag["name"]: tag["score"] for tag in fields.get("tags", ())},
        "caption": None if caption is None else caption["text"],
    }


def _card(each: BeforeAndAfter) -> Card:
    before, after = each.before, each.after
    lines = [f"<del>{escape(name)}</del>" for name in before["tags"] if name not in after["tags"]]
    lines += [f"<ins>+ {escape(name)}</ins>" for name in after["tags"] if name not in before["tags"]]
    if before["caption"] is not None and before["caption"] != after["caption"]:
        lines.append(f"<del>{escape(before['caption'])}</del>")
    return Card(
        each.subject,
        caption=after["caption"],
        tags=list(after["tags"].items()),
        mark=Mark(", ".join(each.changes), "warn"),
        foot=f'<ul class="change">{"".join(f"<li>{line}</li>" for line in lines)}</ul>',
        document={"before": before, "after": after},
        titled="Before and after as JSON",
    )
