"""What the pages share: connections, people, pictures, templates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
from anyio.to_thread import run_sync
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from tagstream_index.page.access import Access, reader
from tagstream_index.page.asked import Asked, typed
from tagstream_index.page.changes import Changes
from tagstream_index.page.completing import Names
from tagstream_index.page.correcting import Corrector
from tagstream_index.page.one import Bundles
from tagstream_index.page.pictures import AT_ONCE, NoPicture, Pictures, Size
from tagstream_index.page.pool import Pool, Sentences, Turns
from tagstream_index.page.showing import address, templates
from tagstream_index.page.typed import Typed
from tagstream_index.searching import Found

_OFFERED: Final = 40
"""Names of tags that a page without a script offers: the most frequent ones."""


@dataclass
class Parts:
    """What all pages share.

    Args:
        corrector: None: nothing can be corrected.
        changes, review: None: there is no such page.
        sentences: None: words don't rank by meaning.
    """

    pool: Pool
    pictures: Pictures
    bundles: Bundles
    access: Access
    corrector: Corrector | None
    changes: Changes | None = None
    sentences: Sentences | None = None
    review: Path | None = None

    def __post_init__(self) -> None:
        self._templates = templates()
        self._making = anyio.CapacityLimiter(AT_ONCE)
        self.turns = Turns()
        self.names = Names(self.pool, self.bundles)
        self.behind_proxy = False

    @property
    def judged(self) -> bool:
        """Whether there is something to judge."""
        return self.review is not None or (self.changes is not None and self.changes.choices is not None)

    def in_turn(self, show: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def shown(request: Request) -> Response:
            async with self.turns.turn(self.reader(request), request.scope["path"]):
                if await request.is_disconnected():  # it has waited for too long
                    return Response(status_code=499)
                return await run_in_threadpool(show, request)

        return shown

    def reader(self, request: Request) -> str:
        return reader(request, self.access.session(request), behind_proxy=self.behind_proxy)

    async def jpeg(self, request: Request, of: str, size: Size) -> Response:
        """A picture as JPEG. Raises NoPicture."""
        tile, jpeg = await run_in_threadpool(self._kept, of, size)
        if jpeg is None:
            async with self._making:
                if await request.is_disconnected():  # it was scrolled past
                    return Response(status_code=499)
                jpeg = await run_sync(self.pictures.make, tile, size)
        return Response(jpeg, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    def _kept(self, subject: str, size: Size) -> tuple[Found, bytes | None]:
        tile = self.tile(subject)
        return tile, self.pictures.there(tile, size)

    def tile(self, subject: str) -> Found:
        with self.pool.searching() as searcher:
            tile = searcher.of_subjects([subject]).get(subject)
        if tile is None:
            raise NoPicture("this picture was removed")
        return tile

    def asked(self, request: Request) -> Asked:
        """The search of an address."""
        return self.about(typed(request))

    def about(self, asked: Asked) -> Asked:
        """The search with a vector, if words rank by meaning."""
        if self.sentences is None or asked.by == "words" or not (sentence := asked.typed.query().sentence):
            return asked
        about = self.sentences.vector(sentence)
        if about is None:
            return asked.by_words("The model is busy. This is the result by words alone.")
        return asked._replace(about=about)

    def page(self, request: Request, name: str, status: int = 200, **values: Any) -> HTMLResponse:
        person, has_forms = self.access.person(request), self.corrector is not None or self.judged
        editor = person is not None and person.editor
        common = {
            "here": address(request.scope["path"], **request.query_params),
            "who": "" if person is None else person.name,
            "logged_in": self.access.session(request) is not None,
            "may_correct": editor and self.corrector is not None,
            "may_log_in": not editor and self.access.possible and has_forms,
            "has_changes": self.changes is not None,
            "has_review": self.review is not None,
            "form_key": self.access.form_key(request),
            "known": [] if self.access.to_read and person is None else self.names.begun("", _OFFERED),
        }
        empty = {**Asked(Typed()).shown, "fresh": None}
        return HTMLResponse(self._templates.get_template(name).render(empty | common | values), status)
