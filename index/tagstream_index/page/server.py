"""The application: its addresses and pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from tagstream_index.copies import copies_of, count_copies
from tagstream_index.page import finding
from tagstream_index.page.access import COOKIE, KEPT_S, LOOPBACK, Guard, pairs_of
from tagstream_index.page.api import Api
from tagstream_index.page.asked import PAGE, field, subject, trouble, typed
from tagstream_index.page.completing import NAME_CHARS
from tagstream_index.page.correcting import Refused, seen
from tagstream_index.page.facets import shown
from tagstream_index.page.judging import Judging
from tagstream_index.page.many import Many
from tagstream_index.page.one import copy_rows, one
from tagstream_index.page.pictures import NoPicture, in_place, size_of
from tagstream_index.page.showing import address, by_month
from tagstream_index.page.site import Parts
from tagstream_index.query import require
from workers.errors import TagstreamError

_SWEEP_S: Final = 300.0
_BOX: Final = b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'
_AGAIN_S: Final = 5


class Site(Parts):
    """The pages by address."""

    def application(self, *, hosts: Collection[str] = (), behind_proxy: bool = False) -> ASGIApp:
        """All addresses, for these `hosts` of `Guard`."""
        self.behind_proxy = behind_proxy
        routes = [
            *Many(self).routes(),
            Route("/", self.in_turn(self.grid)),
            Route("/facets", self.in_turn(self.facets)),
            Route("/picture", self.in_turn(self.picture)),
            Route("/image", self.image),
            Route("/original", self.original),
            *Judging(self).routes(),
            Route("/correct", self.correct, methods=["POST"]),
            Route("/login", self.login, methods=["GET", "POST"]),
            Route("/logout", self.logout, methods=["POST"]),
            Api(self).mount(),
            Mount("/static", StaticFiles(packages=[("tagstream_index.page", "static")])),
            Route("/livez", self.alive),
            Route("/readyz", self.ready),
        ]
        problems: dict[Any, Callable[[Request, Any], Response]]
        problems = {TagstreamError: self._problem, HTTPException: self._no}
        inner = Starlette(routes=routes, exception_handlers=problems, lifespan=self._lifespan)
        return Guard(inner, self.access, hosts)  # around all, so that an unforeseen error has its headers too

    def close(self) -> None:
        for part in (self.pictures, self.names, self.pool, self.corrector, self.sentences):
            if part is not None:
                part.close()

    def grid(self, request: Request) -> Response:
        """A part of the result."""
        asked = self.asked(request)
        with self.pool.searching() as searcher:
            asked, result = asked.result(searcher)
            after, before = (result.place_of(field(request, name)) for name in ("after", "before"))
            page = result.part(PAGE, after=after, before=before)
            lacking = ""
            if not page.found and not page.earlier and (some := asked.some(searcher, PAGE)):
                lacking, (asked, result, page) = asked.typed.words, some
            page = page._replace(found=searcher.lined(result.query, page.found))
            fresh = finding.freshness(searcher)
            why = None if page.found or page.earlier else finding.why_empty(searcher, asked.typed)
            beside = shown(request, result, asked.typed) if field(request, "counts") else {"counts": None}
            copies = count_copies(searcher, [each.subject for each in page.found])
        return self.page(
            request,
            "grid.html",
            **asked.shown,
            result=result,
            page=page,
            months=by_month(page.found) if result.by_day else [("", page.found)],
            copies=copies,
            fresh=fresh,
            why=why,
            lacking=lacking,
            **beside,
            can_rank=result.ranking is None and asked.typed.can_rank(),
            can_mean=self.sentences is not None and bool(asked.typed.query().sentence),
            store_away=self.pictures.store_away,
        )

    def facets(self, request: Request) -> Response:
        """Counts of the result, for the script."""
        asked = self.asked(request)
        with self.pool.searching() as searcher:
            asked, result = asked.result(searcher)
            beside = shown(request, result, asked.typed)
        return self.page(request, "facets.html", **asked.shown, **beside, result=result)

    def picture(self, request: Request) -> Response:
        """One picture, with those before and after it in the result."""
        asked, of = self.asked(request), subject(request)
        with self.pool.searching() as searcher:
            asked, result = asked.result(searcher)
            found = one(searcher, of, self.bundles, result.query)
            if found is None:
                return self.page(request, "gone.html", 410, **asked.shown)
            place = result.place(found.tile)
            earlier, later = result.part(1, before=place).found, result.part(1, after=place).found
            near, copies = finding.similar(searcher, of), copies_of(searcher, of) or []
        return self.page(
            request,
            "one.html",
            **asked.shown | {"said": field(request, "said")},
            new=(new := field(request, "new")[:NAME_CHARS]),
            spellings=[each for each in self.names.spellings(new) if each not in found.tile.names] if new else [],
            one=found,
            later=later[0] if later else None,
            earlier=earlier[0] if earlier else None,
            near=near,
            copies=copy_rows(found.tile, copies),
            pending=[] if self.corrector is None else self.corrector.pending(found),
            has_original=self.pictures.has_original(found.tile),
            back=f"{result.cursor(found.tile)}\U0010ffff",  # just before it, so that the result begins with it
        )

    async def image(self, request: Request) -> Response:
        """A thumbnail or view as JPEG, or a placeholder."""
        try:
            return await self.jpeg(request, subject(request), size_of(field(request, "size")))
        except NoPicture as error:
            reason = str(error).encode("ascii", "replace").decode()
            headers = {"cache-control": "no-store", "x-tagstream-reason": reason}
            return Response(_BOX, error.status, headers, "image/svg+xml")

    def original(self, request: Request) -> Response:
        """Leads to the original in the store for five minutes."""
        of = subject(request)
        try:
            tile = in_place(self.tile(of)) if field(request, "read") else self.tile(of)
            return RedirectResponse(self.pictures.original(tile), 303, {"cache-control": "no-store"})
        except NoPicture as error:
            raise HTTPException(error.status) from error

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._sweep)
            yield
            tasks.cancel_scope.cancel()

    async def _sweep(self) -> None:
        """Remove files of removed pictures, and old ones, by the clock."""
        while True:
            await anyio.sleep(_SWEEP_S)
            with suppress(TagstreamError):  # the database is away: the next one asks again
                await run_sync(self.pictures.kept.sweep, self._current)

    def _current(self, subjects: list[str]) -> dict[str, str]:
        with self.pool.searching() as searcher:
            return {subject: tile.sha256 for subject, tile in searcher.of_subjects(subjects).items()}

    async def correct(self, request: Request) -> Response:
        """Add or remove a tag; then the picture again."""
        form = dict(await pairs_of(request))
        if not self.access.may_send(request, form.get("key", "")):
            return self.page(request, "login.html", 403, wrong="", back="/")
        of = subject(request)
        back = typed(request).shown
        if "add" in form and not form.get("sure") and await run_in_threadpool(self._is_new, form["add"].strip()):
            answer = {"new": form["add"].strip()}
        else:
            answer = {"said": await run_in_threadpool(self._send, of, form, self.access.name(request))}
        return RedirectResponse(address("/picture", of=of, q=back["typed"].text, **back["fields"], **answer), 303)

    def _is_new(self, name: str) -> bool:
        with self.pool.searching() as searcher:
            return bool(name) and not self.names.knows(searcher, name)

    def _send(self, subject: str, form: dict[str, str], by: str) -> str:
        name, present = (form["add"], True) if "add" in form else (form.get("remove", ""), False)
        if self.corrector is None:
            return "Nothing can be corrected here."
        with self.pool.searching() as searcher:
            found = seen(searcher, [subject])
        try:
            self.corrector.send(found, name.strip(), present, by)
        except Refused as error:
            return str(error)
        return ""

    async def login(self, request: Request) -> Response:
        """The token's form."""
        form = dict(await pairs_of(request)) if request.method == "POST" else {}
        back = form.get("back") or field(request, "back") or "/"
        if not back.startswith("/") or back.startswith(("//", "/\\")):
            back = "/"
        if request.method == "GET":
            return self.page(request, "login.html", wrong="", back=back)
        session = await self.access.log_in(form.get("token", ""))
        if session is None:
            return self.page(request, "login.html", 403, wrong="This is not the token.", back=back)
        answer = RedirectResponse(back, 303)
        secure = request.scope["scheme"] == "https"
        answer.set_cookie(COOKIE, session, KEPT_S, httponly=True, samesite="strict", secure=secure)
        return answer

    async def logout(self, request: Request) -> Response:
        form = dict(await pairs_of(request))
        answer = RedirectResponse("/", 303)
        if self.access.may_send(request, form.get("key", "")):
            answer.delete_cookie(COOKIE)
        return answer

    async def alive(self, _: Request) -> Response:
        """On the event loop: threads may be busy."""
        return PlainTextResponse("ok\n")

    def ready(self, _: Request) -> Response:
        with self.pool.lent():
            return PlainTextResponse("ok\n")

    def _problem(self, request: Request, error: TagstreamError) -> Response:
        """A page that says why nothing is shown, and reloads."""
        why = trouble(error)
        answer = self.page(request, "problem.html", 503, **typed(request).shown | why._asdict())
        if not why.slow:
            answer.headers["refresh"] = str(_AGAIN_S)
            answer.headers["retry-after"] = str(_AGAIN_S)
        return answer

    def _no(self, request: Request, error: HTTPException) -> Response:
        return self.page(request, "nothing.html", error.status_code)


def require_safe(host: str, *, token: str, behind_proxy: bool, names: Collection[str]) -> None:
    """Raises Misconfigured: foreign clients, or sites in a reader's browser, could read all, or guess the token."""
    safe = "Set TAGSTREAM_INDEX_PAGE_TOKEN, or say --behind-proxy if a proxy authenticates them"
    seen = f"--host {host}: any client that reaches it could see all pictures. {safe}"
    require(host in LOOPBACK or behind_proxy or bool(token), seen)
    named = "Say --name and the host by which people open it, such as --name photos.example"
    foreign = f"--behind-proxy: another site could read the page through a reader's browser. {named}"
    require(bool(names) or not behind_proxy, foreign)
    for name in names:
        alone = "/" not in name and name.count(":") != 1
        require(alone, f"--name {name}: say the host alone, such as photos.example")
    require(not token or len(token) >= 16, "TAGSTREAM_INDEX_PAGE_TOKEN must have at least 16 characters")
