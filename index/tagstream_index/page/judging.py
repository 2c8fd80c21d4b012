"""The pages on which people judge: what a change would change, and a review."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from tagstream_index.page.access import pairs_of
from tagstream_index.page.asked import PAGE, field, number
from tagstream_index.page.changes import SIDES
from tagstream_index.page.showing import address
from tagstream_index.page.site import Parts
from tagstream_index.review import MOST, Review, judge, lines
from tagstream_index.searching import Found
from workers.assembly.choices import CHOICES, Choice

_STALE: Final = "The file is about other pictures by now: nothing was saved."


@dataclass(frozen=True)
class Judging:
    """The pages of changes and of a review, and their verdicts."""

    _site: Parts

    def routes(self) -> list[Route]:
        in_turn = self._site.in_turn
        return [
            Route("/changes", in_turn(self.show_changes)),
            Route("/changes", self.judge, methods=["POST"]),
            Route("/review", in_turn(self.show_review)),
            Route("/review", self.judge, methods=["POST"]),
        ]

    def show_changes(self, request: Request) -> Response:
        """Pictures that a change would change, before and after."""
        changes = self._site.changes
        if changes is None:
            raise HTTPException(404)
        label, side, page = field(request, "label").strip(), field(request, "side"), number(request)
        side = side if side in SIDES else ""
        changed, total = changes.part(label, side, (page - 1) * PAGE, PAGE)
        said = changes.said()
        tiles = self._tiles({each.subject: each.sha256 for _, each in changed})
        verdicts = {} if said is None else said.verdicts
        return self._judged(
            request,
            "changes.html",
            changes=changes,
            label=label,
            side=side,
            number=page,
            total=total,
            more=total > page * PAGE,
            cards=[(rank, each, tiles.get(each.subject), verdicts.get(each.subject)) for rank, each in changed],
            lines=[] if said is None else list(said.lines(changes.head.lines)),
            draw=None if said is None else said.plan,
        )

    def show_review(self, request: Request) -> Response:
        """Drawn pictures, with their tags before and after the verdicts."""
        if self._site.review is None:
            raise HTTPException(404)
        review, page = Review.read(self._site.review), number(request)
        first = (page - 1) * PAGE
        places = list(enumerate(review.drawn))[first : first + PAGE]
        tiles = self._tiles({drawn.subject: drawn.sha256 for _, drawn in places})
        there = [tiles.get(drawn.subject) for _, drawn in places]
        return self._judged(
            request,
            "review.html",
            review=review,
            lines=list(lines(review)),
            number=page,
            more=len(review.drawn) > first + PAGE,
            cards=[
                (place, each, each.changed(review.head.label, tile.names if tile else ()), tile)
                for (place, each), tile in zip(places, there, strict=True)
            ],
        )

    async def judge(self, request: Request) -> Response:
        """Keep verdicts; then the pictures again, or for the script the result alone."""
        path, form = request.scope["path"], dict(await pairs_of(request, MOST + 10))
        if not self._site.judged or not self._site.access.may_send(request, form.get("key", "")):
            return self._site.page(request, "login.html", 403, wrong="", back="/")
        places = {name[1:]: verdict for name, verdict in form.items() if re.fullmatch("v[0-9]{1,9}", name)}
        said = {int(place): verdict for place, word in places.items() for verdict in CHOICES if verdict == word}
        keep = self._keep_review if path == "/review" else self._keep_changes
        result = await run_in_threadpool(keep, form.get("draw", ""), said)
        if "script" in form:
            return PlainTextResponse(_STALE if result is None else result)
        shown = {name: form.get(name, "") for name in ("label", "side", "page")}
        return RedirectResponse(address(path, **shown, stale=1 if result is None else None), 303)

    def _keep_review(self, draw: str, said: Mapping[int, Choice]) -> str | None:
        """The result; None: the file has another draw by now, or there is none."""
        if self._site.review is None or not judge(self._site.review, draw, said):
            return None
        return "; ".join(lines(Review.read(self._site.review)))

    def _keep_changes(self, draw: str, said: Mapping[int, Choice]) -> str | None:
        """As `_keep_review`."""
        changes = self._site.changes
        made = None if changes is None else changes.judge(draw, said)
        return None if made is None or changes is None else "; ".join(made.lines(changes.head.lines))

    def _tiles(self, contents: Mapping[str, str | None]) -> dict[str, Found]:
        """The pictures that have the content to judge still; None: any."""
        with self._site.pool.searching() as searcher:
            tiles = searcher.of_subjects(list(contents))
        return {subject: tile for subject, tile in tiles.items() if contents[subject] in (None, tile.sha256)}

    def _judged(self, request: Request, name: str, **values: Any) -> Response:
        stale = _STALE if field(request, "stale") else ""
        may_judge, away = self._site.access.may_correct(request), self._site.pictures.store_away
        return self._site.page(request, name, may_judge=may_judge, store_away=away, stale=stale, **values)
