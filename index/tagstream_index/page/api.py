"""Answers for programs: the page's searches, pictures, names and corrections as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar

import orjson
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from schemas.text import first_fault
from tagstream_index.copies import copies_of
from tagstream_index.page import api_document as documents
from tagstream_index.page.access import body_of, problem
from tagstream_index.page.asked import Asked, trouble
from tagstream_index.page.correcting import Corrector, Crowded, Refused, seen
from tagstream_index.page.finding import similar, why_empty
from tagstream_index.page.one import one
from tagstream_index.page.pictures import NoPicture
from tagstream_index.page.site import Parts
from tagstream_index.page.typed import read
from tagstream_index.searching import Searcher
from workers import __version__
from workers.errors import TagstreamError

COPIES: Final = 60
"""Copies of a picture in an answer."""
_BODY_BYTES: Final = 64 * 1024
_AGAIN: Final = {"retry-after": "5"}
_Wish = TypeVar("_Wish", bound=documents.Parameters)


@dataclass
class Api:
    """The addresses below /api."""

    _site: Parts

    def mount(self) -> Mount:
        in_turn = self._site.in_turn
        answers = {
            "search": in_turn(self.search),
            "picture": in_turn(self.picture),
            "tags": self.tags,
            "thumbnail": self.thumbnail,
            "corrections": self.correct,
        }
        routes = [Route(f"/{each.name}", answers[each.name], methods=[each.method]) for each in documents.OPERATIONS]
        routes.append(Route("/openapi.json", self.document))
        failures: dict[Any, Any] = {TagstreamError: _failed, HTTPException: _refused, Exception: _broken}
        return Mount("/api", Starlette(routes=routes, exception_handlers=failures))

    def search(self, request: Request) -> Response:
        wanted = _wanted(request, documents.SearchParameters)
        asked = self._site.about(Asked(read(wanted.q), wanted.sort == "best", wanted.by.replace("both", "")))
        if asked.best and not asked.typed.can_rank():
            raise HTTPException(400, "sort: only words and tags have a best; leave it out.")
        if wanted.by == "meaning" and asked.about is None and not asked.said:
            raise HTTPException(400, "by: no meaning without words, and without `index serve --text`; leave it out.")
        with self._site.pool.searching() as searcher:
            if faults := asked.known(searcher).typed.faults:
                raise HTTPException(400, f"q: {' '.join(faults)}")
            asked, result = asked.result(searcher)
            back, place = wanted.cursor.startswith("<"), result.place_of(wanted.cursor[1:])
            if wanted.cursor and (place is None or wanted.cursor[0] not in "<>"):
                raise HTTPException(400, "cursor: it is not of this search; leave it out for the first page.")
            part = result.part(wanted.limit, before=place if back else None, after=None if back else place)
            counts = result.counts()._asdict() if wanted.counts else None
            instead = [] if part.found or place else _instead(searcher, asked)
            found = searcher.lined(result.query, part.found)
        answer: dict[str, Any] = {
            "images": [each.document() for each in found],
            "next": f">{result.cursor(found[-1])}" if found and part.later else None,
            "previous": f"<{result.cursor(found[0])}" if found and part.earlier else None,
            "said": asked.said,
            "instead": instead,
        }
        if counts is not None:
            answer["counts"] = {name: each if isinstance(each, int) else dict(each) for name, each in counts.items()}
        return _json(answer)

    def picture(self, request: Request) -> Response:
        subject = _wanted(request, documents.PictureParameters).subject
        with self._site.pool.searching() as searcher:
            found = one(searcher, subject, self._site.bundles)
            if found is None:
                raise _gone(searcher, subject)
            near, copies = similar(searcher, subject), copies_of(searcher, subject) or []
        pending = [] if self._site.corrector is None else self._site.corrector.pending(found)
        return _json(
            {
                "image": found.tile.document(),
                "thresholds": {row.name: row.threshold for row in found.tags if row.threshold is not None},
                "pending": [each.name for each in pending if not each.failure],
                "failed": {each.name: each.failure for each in pending if each.failure},
                "outcomes": [now for now, *_ in found.history],
                "copies": [each.document() for each in copies[:COPIES]],
                "similar": [each.document() for each in near],
            }
        )

    async def tags(self, request: Request) -> Response:
        wanted = _wanted(request, documents.TagsParameters)
        return _json({"tags": [asdict(each) for each in self._site.names.begun(wanted.prefix, wanted.limit)]})

    async def thumbnail(self, request: Request) -> Response:
        wanted = _wanted(request, documents.ThumbnailParameters)
        try:
            return await self._site.jpeg(request, wanted.subject, wanted.size)
        except NoPicture as error:
            raise HTTPException(error.status, f"{error}.", _AGAIN if error.status > 500 else None) from error

    async def correct(self, request: Request) -> Response:
        """Send a person's word; an outcome shows it later."""
        person = self._site.access.person(request)
        if person is None:
            raise HTTPException(401, "Send the token as `Authorization: Bearer TOKEN`.")
        if not person.editor:
            raise HTTPException(403, "You may read alone: --editors does not name you.")
        if self._site.corrector is None:
            raise HTTPException(404, "Nothing can be corrected here: TAGSTREAM_CORRECTIONS_TOPIC is not set.")
        body = await body_of(request, _BODY_BYTES)
        if body is None:
            raise HTTPException(413, f"A correction has at most {_BODY_BYTES:,} bytes.")
        wish = _read(lambda: documents.CorrectionWish.model_validate_json(body))
        await run_in_threadpool(self._send, self._site.corrector, wish, person.name)
        return _json({"subject": wish.subject}, 202)

    def _send(self, corrector: Corrector, wish: documents.CorrectionWish, by: str) -> None:
        with self._site.pool.searching() as searcher:
            found = seen(searcher, [wish.subject])
            if not found:
                raise _gone(searcher, wish.subject)
        if found[0].sha256 != wish.sha256:
            raise HTTPException(409, "The picture has other content by now: look at it again.")
        said = dict.fromkeys(wish.removed, False) | dict.fromkeys(wish.added, True)
        if not said or len(said) < len(wish.removed) + len(wish.added):
            raise HTTPException(400, "added, removed: name each tag once, and at least one.")
        try:
            for name, present in said.items():
                corrector.send(found, name, present, by)
        except Crowded as error:
            raise HTTPException(429, str(error), {"retry-after": "60"}) from error
        except Refused as error:
            raise HTTPException(400, str(error)) from error

    async def document(self, _: Request) -> Response:
        return _json(documents.openapi(__version__))


def _instead(searcher: Searcher, asked: Asked) -> list[str]:
    """Texts that find something where this one does not, the nearest first."""
    why, some = why_empty(searcher, asked.typed), asked.some(searcher, 1)
    others = [typed.text for _, typed in (*why.nearest, *why.without) if typed.tokens]
    return [some[0].typed.text, *others] if some else others


def _gone(searcher: Searcher, subject: str) -> HTTPException:
    text = "select from image where subject = %(subject)s"
    known = searcher.execute(text, {"subject": subject}).fetchone() is not None
    return HTTPException(410, "This picture was removed.") if known else HTTPException(404, "There is no such picture.")


def _wanted(request: Request, model: type[_Wish]) -> _Wish:
    """The parameters of an address. Raises HTTPException: 400, one is unknown, doubled or can't be read."""
    given = request.query_params
    if len(given) != len(given.multi_items()):
        raise HTTPException(400, "A parameter comes twice.")
    return _read(lambda: model.model_validate(dict(given)))


def _read(validated: Callable[[], _Wish]) -> _Wish:
    try:
        return validated()
    except ValidationError as error:
        raise HTTPException(400, f"{first_fault(error)}.") from None


def _json(answer: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(answer), status, media_type="application/json")


def _failed(_: Request, error: TagstreamError) -> Response:
    why = trouble(error)
    said = f"{error}. {why.advice}" if why.said or why.busy else "The index does not answer for now."
    return problem(503, said.strip(), _AGAIN)


def _refused(_: Request, error: HTTPException) -> Response:
    ours = error.detail != HTTPStatus(error.status_code).phrase
    detail = error.detail if ours else f"{error.detail}: /api/openapi.json says what there is."
    return problem(error.status_code, detail, error.headers)


def _broken(_: Request, __: Exception) -> Response:
    return problem(500, "The page failed; its log tells why.")
