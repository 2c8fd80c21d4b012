"""Many pictures at once: one tag for all of them after one confirmation, and their list as a file."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from tagstream_index.page.access import pairs_of
from tagstream_index.page.asked import SUBJECT_CHARS, field, typed
from tagstream_index.page.correcting import Corrector, Refused, Seen, seen
from tagstream_index.page.showing import address
from tagstream_index.page.site import Parts
from tagstream_index.query import storable
from tagstream_index.searching import Found

MOST: Final = 500
"""Pictures of one correction."""
LISTED: Final = 10_000
"""Pictures of a list."""
_PART, _BY_ID = 100, 10
"""Pictures that are read, and held in memory, at once: of an answer, which bounds them, and by id."""
_SHOWN: Final = 24
_AGAIN_S: Final = 2
_KINDS: Final = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
_COLUMNS: Final = (
    "subject", "tags", "scores", "caption", "taken_at", "last_modified", "format", "width", "height", "bytes", "sha256",
    "status", "corrected",
)  # fmt: skip
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A cell that begins so is a formula for spreadsheets, unless a quote stands before it."""


@dataclass
class Many:
    """The addresses of what is done with several pictures."""

    _site: Parts

    def routes(self) -> list[Route]:
        return [Route("/many", self.many, methods=["POST"]), Route("/sent", self.sent)]

    async def many(self, request: Request) -> Response:
        """List pictures, ask whether to correct them, or do it."""
        pairs = await pairs_of(request, MOST + 10)
        form, do = dict(pairs), dict(pairs).get("do")
        subjects = [value for name, value in pairs if name == "of" and len(value) <= SUBJECT_CHARS]
        if not (subjects or "all" in form) or do not in ("add", "remove", *_KINDS):
            return self._refusal(request, "Nothing is selected, or more than a form can carry: select all instead.")
        wanted = None if "all" in form else subjects
        if do in _KINDS:
            parts = self._parts(request, wanted)
            head = {"content-disposition": f'attachment; filename="pictures.{do}"'}
            text = _csv if do == "csv" else _json
            first = await anext(parts)  # what goes wrong so early is still a page
            return StreamingResponse(text(_again(first, parts)), media_type=_KINDS[do], headers=head)
        if self._site.corrector is None or not self._site.access.may_send(request, form.get("key", "")):
            return self._site.page(request, "login.html", 403, wrong="", back="/")
        form["tag"] = storable(form.get("tag", "").strip())
        if not form["tag"]:
            return self._refusal(request, "Name a tag in the box beside the buttons.")
        async with self._site.turns.turn(self._site.reader(request), "/many"):
            return await run_in_threadpool(self._correct, request, form, wanted, self._site.corrector)

    def _correct(
        self, request: Request, form: dict[str, str], subjects: Sequence[str] | None, corrector: Corrector
    ) -> Response:
        """Send what was confirmed; ask, also again if it is something else by now."""
        asked, tag, present = self._site.asked(request), form["tag"], form["do"] == "add"
        after, cut = form.get("after", ""), False
        with self._site.pool.searching() as searcher:
            if subjects is None:
                asked, result = asked.result(searcher)
                found, _, cut = result.part(MOST, after=result.place_of(after))
                subjects = [each.subject for each in found]
                if found and not after:  # just before the first one: what comes later stays out
                    after = f"{result.cursor(found[0])}\U0010ffff"
            pictures = seen(searcher, subjects)
            wanted = [each for each in pictures if (tag in each.names) != present]
            tiles = searcher.of_subjects([each.subject for each in wanted[:_SHOWN]])
            new = present and not self._site.names.knows(searcher, tag)
        sure = _digest(form["do"], tag, wanted)
        if wanted and form.get("sure") == sure:
            try:
                made = corrector.send(wanted, tag, present, self._site.access.name(request))
            except Refused as error:
                return self._refusal(request, str(error))
            shown = asked.shown
            return RedirectResponse(address("/sent", of=made, q=shown["typed"].text, **shown["fields"]), 303)
        values: dict[str, Any] = {"form": form, "wanted": wanted, "others": len(pictures) - len(wanted), "cut": cut}
        values |= {"tiles": list(tiles.values()), "after": after, "new": new, "sure": sure, "refusal": ""}
        spellings = self._site.names.spellings(tag) if new else []
        return self._site.page(request, "many.html", **asked.shown, **values, spellings=spellings)

    def sent(self, request: Request) -> Response:
        """How far corrections are; the page reloads until none is on its way."""
        if not self._site.access.may_correct(request):
            return self._site.page(request, "login.html", 403, wrong="", back="/")
        sending = None if self._site.corrector is None else self._site.corrector.sending(field(request, "of"))
        if sending is None:
            raise HTTPException(404)
        left = sum(not each.ended for each in sending.parts.values())
        answer = self._site.page(request, "sent.html", **self._site.asked(request).shown, sending=sending, left=left)
        if left:
            answer.headers["refresh"] = str(_AGAIN_S)
        return answer

    def _refusal(self, request: Request, sentence: str) -> Response:
        return self._site.page(request, "many.html", 400, **typed(request).shown, refusal=sentence)

    async def _parts(self, request: Request, subjects: Sequence[str] | None) -> AsyncIterator[Sequence[Found]]:
        """Pictures in parts, at least one; None: those of the answer."""
        asked = await run_in_threadpool(self._site.asked, request)
        who, mine, after = self._site.reader(request), f"/many {id(request)}", ""

        def part(first: int) -> tuple[Sequence[Found], str]:
            with self._site.pool.searching() as searcher:
                if subjects is not None:
                    return list(searcher.of_subjects(subjects[first : first + _BY_ID]).values()), "ids"
                _, result = asked.result(searcher)
                found = result.part(_PART, after=result.place_of(after))
                return found.found, result.cursor(found.found[-1]) if found.later else ""

        first, last = 0, LISTED if subjects is None else max(1, len(subjects))
        while first < last:
            async with self._site.turns.turn(who, mine):
                found, after = await run_in_threadpool(part, first)
            yield found
            if not after:
                return
            first += len(found) if subjects is None else _BY_ID


def _digest(do: str, tag: str, pictures: Sequence[Seen]) -> str:
    """What a person confirms: the change, and the content of each picture."""
    told = [do, tag, *(f"{each.sha256} {each.subject}" for each in pictures)]
    return hashlib.sha256("\0".join(told).encode(errors="replace")).hexdigest()[:32]


async def _again(first: Sequence[Found], parts: AsyncIterator[Sequence[Found]]) -> AsyncIterator[Sequence[Found]]:
    yield first
    async for part in parts:
        yield part


async def _csv(parts: AsyncIterator[Sequence[Found]]) -> AsyncIterator[str]:
    yield "\ufeff" + _rows([_COLUMNS])  # by the mark, spreadsheets know UTF-8
    async for part in parts:
        yield _rows(map(_cells, part))


async def _json(parts: AsyncIterator[Sequence[Found]]) -> AsyncIterator[bytes]:
    before = b"["
    async for part in parts:
        if part:
            yield before + b",\n".join(orjson.dumps(each.document()) for each in part)
            before = b",\n"
    yield b"[]\n" if before == b"[" else b"]\n"


def _rows(rows: Any) -> str:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows(rows)
    return out.getvalue()


def _cells(found: Found) -> list[str]:
    known = found.document()
    known["tags"] = "; ".join(found.names)
    known["scores"] = "; ".join(f"{score:.4f}" for score in found.scores)
    texts = [str(known.get(name, "")) for name in _COLUMNS]
    return [f"'{text}" if text.startswith(_FORMULAS) else text for text in texts]
