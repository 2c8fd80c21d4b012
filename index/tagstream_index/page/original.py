"""Leads to originals in the object store."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tagstream_index.page.asked import subject
from tagstream_index.page.pictures import NoPicture, Pictures
from tagstream_index.page.pool import Pool


@dataclass(frozen=True)
class Originals:
    """Redirects to a presigned link, made for each request."""

    _pool: Pool
    _pictures: Pictures

    def routes(self) -> list[Route]:
        return [Route("/original", self.original)]

    def original(self, request: Request) -> Response:
        """The link to an original, for five minutes."""
        of = subject(request)
        with self._pool.searching() as searcher:
            tile = searcher.of_subjects([of]).get(of)
        if tile is None:
            raise HTTPException(404)
        try:
            return RedirectResponse(self._pictures.original(tile), 303, {"cache-control": "no-store"})
        except NoPicture as error:
            raise HTTPException(error.status) from error
