"""What a request asks for: a search, a picture, a part of a list. Why it gets nothing."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from typing import Any, Final, NamedTuple

from psycopg.errors import QueryCanceled
from starlette.exceptions import HTTPException
from starlette.requests import Request

from tagstream_index.page.finding import Page, Result
from tagstream_index.page.pool import Busy
from tagstream_index.page.typed import Typed, read
from tagstream_index.query import Embedding
from tagstream_index.searching import Searcher
from workers.errors import Misconfigured, TagstreamError, Unavailable

logger = logging.getLogger(__name__)

PAGE: Final = 60
"""Pictures that come at once."""
BY: Final = ("", "words", "meaning")
"""How words rank; the first is by both."""
SUBJECT_CHARS: Final = 1_200
_SOME_S: Final = 1.0


class Asked(NamedTuple):
    """The search of an address; `best`: ordered by fit, `by` one of `BY`."""

    typed: Typed
    best: bool = False
    by: str = ""
    about: Embedding | None = None
    """The vector of the words, if they rank by their meaning too."""
    said: str = ""
    """A sentence for people if they don't."""

    @property
    def shown(self) -> dict[str, Any]:
        """For the templates; `fields` repeat all but the text in an address."""
        sort = "best" if self.best or self.about is not None else "new"
        fields = {"sort": "best" if self.best and self.about is None else "", "by": self.by}
        return {"typed": self.typed, "sort": sort, "by": self.by, "fields": fields, "said": self.said}

    def known(self, searcher: Searcher) -> Asked:
        """The search with words of the kinds of results in the index."""
        return self._replace(typed=read(self.typed.text, searcher.results))

    def by_words(self, said: str) -> Asked:
        return self._replace(best=self.typed.can_rank(), by="words", about=None, said=said)

    def some(self, searcher: Searcher, limit: int) -> tuple[Asked, Result, Page] | None:
        """Pictures with some of the words, the best first; None: there are none in time."""
        typed = None if self.about is not None else self.typed.some()
        if typed is not None:
            with suppress(QueryCanceled), searcher.quick(_SOME_S):
                asked, result = self._replace(typed=typed, best=True).result(searcher)
                if (page := result.part(limit)).found:
                    return asked, result, page
        return None

    def result(self, searcher: Searcher) -> tuple[Asked, Result]:
        """The result; only by words if the index has no vectors of that space."""
        asked = self.known(searcher)
        query = asked.typed.query(best=self.best, about=self.about, by_meaning=self.by == "meaning")
        try:
            return asked, Result(searcher, query)
        except Misconfigured as error:
            return asked.by_words(f"{error}. This is the result by words alone.").result(searcher)


def field(request: Request, name: str) -> str:
    return request.query_params.get(name, "")


def number(request: Request) -> int:
    """The number of a page, from 1 on."""
    return max(1, int(at)) if re.fullmatch("[0-9]{1,7}", at := field(request, "page")) else 1


def typed(request: Request) -> Asked:
    """The search of an address, without a vector."""
    text, by = read(field(request, "q")), field(request, "by")
    return Asked(text, field(request, "sort") == "best" and text.can_rank(), by if by in BY else "")


def subject(request: Request) -> str:
    """The subject of a picture. Raises HTTPException: 404, it is none."""
    of = field(request, "of")
    if not 0 < len(of) <= SUBJECT_CHARS or "\0" in of:
        raise HTTPException(404)
    return of


class Trouble(NamedTuple):
    """Why nothing is shown: what readers may know of it."""

    busy: bool
    slow: bool
    said: str
    advice: str


def trouble(error: TagstreamError) -> Trouble:
    """What to tell of an error, which the log tells whole."""
    slow = isinstance(error, Unavailable) and error.fault == "too-slow"
    told = isinstance(error, Misconfigured) or slow  # an address of the database is not for readers
    said, advice = (str(error), getattr(error, "advice", "")) if told else ("", "")
    if not isinstance(error, Busy):
        logger.warning("no page: %s", error)
    return Trouble(isinstance(error, Busy), slow, said, advice)
