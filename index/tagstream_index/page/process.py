"""`tagstream index serve`: the page's process."""

from __future__ import annotations

import gc
import logging
import signal
import socket
from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvicorn

from tagstream_index.database import connected
from tagstream_index.page.access import LOOPBACK, Access, people_of
from tagstream_index.page.changes import Changes
from tagstream_index.page.connections import CONNECTIONS, Connection
from tagstream_index.page.correcting import Corrector, missing
from tagstream_index.page.one import Bundles
from tagstream_index.page.pictures import Pictures
from tagstream_index.page.pool import Pool, Sentences
from tagstream_index.page.server import Site, require_safe
from tagstream_index.query import require
from tagstream_index.review import Review
from tagstream_index.settings import IndexSettings
from workers.environment import all_secrets
from workers.errors import Misconfigured, Unavailable
from workers.service.logs import start_logging
from workers.service.process import STOPPING

logger = logging.getLogger(__name__)

_STOP_S: Final = 5


def serve_page(
    settings: IndexSettings,
    bind: tuple[str, int],
    *,
    behind_proxy: bool,
    names: Collection[str],
    user_header: str | None,
    editors: Path | None,
    bundles: Path | None,
    cache_bytes: int,
    changes: Path | None,
    choices: Path | None,
    review: Path | None,
    text: Path | None,
    up: Callable[[str], object],
) -> None:
    """Serve until a signal.

    Args:
        names: lower-case hosts by which people open the page.
        up: gets the page's address once it is bound.

    Raises:
        Misconfigured: the address is not safe, or taken, or a bundle or file can't be used.
    """
    token, host = settings.index_page_token.get_secret_value(), bind[0]
    require_safe(host, token=token, behind_proxy=behind_proxy, names=names)
    people = people_of(user_header, editors, behind_proxy=behind_proxy)
    start_logging(settings.log_level, settings.log_format, secrets=all_secrets(settings))
    _require_tables(settings)
    lacking = missing(settings, by_token=editors is None)
    if (token or editors) and lacking:
        logger.info("tags can't be corrected: %s not set", ", ".join(lacking))
    with ExitStack() as cleanup:
        pictures = Pictures(settings, cache_bytes)
        shown = None if changes is None else cleanup.enter_context(Changes(changes, choices))
        if shown is not None:
            shown.load()
        if review is not None:
            Review.read(review)
        for name, file in (("--review", review), ("--choices", choices)):
            needs = f"{name} {file}: people judge after a login: set TAGSTREAM_INDEX_PAGE_TOKEN, or --editors"
            require(file is None or bool(token or editors), needs)
        site = Site(
            Pool(settings),
            pictures,
            Bundles(settings, bundles),
            Access(token, to_read=host not in LOOPBACK and not behind_proxy, people=people),
            None if lacking else Corrector(settings),
            shown,
            None if text is None else _sentences(text),
            review,
        )
        cleanup.callback(site.close)
        pictures.warm()
        local = host in LOOPBACK and not behind_proxy
        _run(config(site, hosts=(*LOOPBACK, *names) if local else names, behind_proxy=behind_proxy), bind, up)
    logger.info("stopped")


def _sentences(bundle: Path) -> Sentences:
    from tagstream_index.sentences import embedding_of, open_text

    text = open_text(bundle)
    embedding_of(text, "a picture")  # the first one takes longest, and shows whether the bundle is whole
    return Sentences(partial(embedding_of, text))


def _require_tables(settings: IndexSettings) -> None:
    """Raises Misconfigured: the tables are missing, or of another version. A database that is away is waited for."""
    try:
        connected(settings).close()
    except Unavailable as error:
        logger.warning("no page: %s", error)


def config(site: Site, *, hosts: Collection[str] = (), behind_proxy: bool = False, **others: Any) -> uvicorn.Config:
    """The server of a site. Takes the arguments of `Site.application`, and uvicorn's."""
    return uvicorn.Config(
        site.application(hosts=hosts, behind_proxy=behind_proxy),
        http=Connection,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=behind_proxy,
        forwarded_allow_ips="*" if behind_proxy else None,
        **{"timeout_graceful_shutdown": _STOP_S, **others},
    )


def _run(made: uvicorn.Config, bind: tuple[str, int], up: Callable[[str], object]) -> None:
    family = socket.AF_INET6 if ":" in bind[0] else socket.AF_INET
    try:
        bound = socket.create_server(bind, family=family, backlog=CONNECTIONS)
    except OSError as error:
        place = f"--host {bind[0]} --port {bind[1]}"
        raise Misconfigured(f"{place}: the address can't be bound: {error.strerror}") from error
    with bound:
        host, port = bound.getsockname()[:2]
        up(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
        for number in STOPPING:  # uvicorn sends the signal again once it has ended, and we have to clean up
            signal.signal(number, lambda *_: None)
        gc.collect()
        gc.freeze()  # else a request now and then pays a tenth of a second to look through all that was imported
        uvicorn.Server(made).run([bound])
