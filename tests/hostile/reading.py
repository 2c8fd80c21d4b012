"""Readers of the results, attacked with the worker, and their times: an indexer, a page and a retag."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tagstream_index.database import connected
from tagstream_index.settings import IndexSettings
from tagstream_testing.local.demo_retag import PLAN, tagstream
from tagstream_testing.local.demo_search import IndexProcess, PageProcess
from tagstream_testing.local.postgresql import PostgreSQL
from tests.hostile.scene import Scene
from tests.hostile.witness import FORGED
from tests.support.lying_store import drips
from tests.support.raw_kafka import batch, produce, record
from tests.support.worker_process import photo
from workers.settings import SecretUrl

LONG_AGO_MS = -(10**15)
_IDLE = 600
_FLOODS = 4


class Reading:
    """A running indexer and page, and a retag's output; seconds to each good row, and of each answer of the page."""

    def __init__(self, scene: Scene, server: PostgreSQL, folder: Path) -> None:
        self._scene = scene
        self._schema = scene.site.name.replace("-", "_").replace(".", "_")
        self._settings = IndexSettings(index_dsn=SecretUrl(server.dsn), index_schema=self._schema)
        self.environment = {
            **scene.worker.environment(),
            "TAGSTREAM_INDEX_DSN": server.dsn,
            "TAGSTREAM_INDEX_SCHEMA": self._schema,
            "TAGSTREAM_INDEX_GROUP": f"{scene.site.name}-index",
        }
        self.folder = folder / "reading"
        self.folder.mkdir()
        tagstream(self.folder, self.environment, "index", "init")
        self.indexer = IndexProcess(folder / "indexer", self.environment)
        self.page = PageProcess(folder / "page", self.environment)
        self.rows_s: dict[str, float] = {}
        self.page_s: list[float] = []
        self.wrong: list[str] = []
        self.retagged: list[str] = []
        self._ended = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        try:
            self.indexer.start()
            self.page.start()
            self.indexer.wait_for_all()
            yield
        finally:
            self.indexer.kill()
            self.page.kill()

    @contextmanager
    def attacked(self) -> Iterator[None]:
        readers = [self._read_rows, self._read_page, self._retag]
        doing = [self._forge, self._hold, *readers, *[self._flood] * _FLOODS]
        threads = [threading.Thread(target=each, name=each.__name__) for each in doing]
        for each in threads:
            each.start()
        try:
            yield
        finally:
            self._ended.set()
            for each in threads:
                each.join()

    def _forge(self) -> None:
        """Outcomes that no worker made: of impossible times, greatest versions, other objects, and bare ones."""
        site = self._scene.site
        real = json.loads(site.read(site.enriched)[0].value)
        real["event"] |= {"partition": 7}
        for number in range(5):  # objects that come a byte at a time
            key = f"forged-{number}.jpg"
            site.store.put(site.name, key, photo(number))
            self._scene.store.lies[key] = drips(lambda: not self._ended.is_set())
        bare = {name: value for name, value in real.items() if name not in ("cache", "options", "document_id")}
        number = 0
        while not self._ended.wait(0.5):
            number += 1
            forged: list[dict[str, Any]] = [
                {**bare, "models": {}},
                {**real, "version": 2**53 - 1},
                {**real, "source": {**real["source"], "last_modified": "9999-12-31T23:59:59-23:00"}},
                {**real, "source": {**real["source"], "bucket": "elsewhere"}},
            ]
            for each in forged:
                key = f"forged-{number % 5}.jpg"
                source = {**each["source"], "key": key}
                each |= {"source": source, "subject": f"{source['bucket']}/{key}"}
                each.pop("document_id", None)
                value = record(
                    json.dumps(each).encode(), key=each["subject"].encode(), headers=[(FORGED.encode(), b"")]
                )
                for at_ms in (LONG_AGO_MS, int(time.time() * 1000)):
                    assert produce(site.stack.kafka.servers, site.enriched, 0, batch([value], timestamp=at_ms))[0] == 0

    def _retag(self) -> None:
        tagstream(self.folder, self.environment, "retag", "plan", "-o", PLAN)
        self.retagged = tagstream(self.folder, self.environment, "retag", "go", PLAN)

    def _connection(self, source: str) -> http.client.HTTPConnection:
        place = urlsplit(self.page.url)
        return http.client.HTTPConnection("127.0.0.1", place.port, timeout=60, source_address=(source, 0))

    def _hold(self) -> None:
        port = urlsplit(self.page.url).port or 0
        held: list[socket.socket] = []
        while not self._ended.wait(0.05):
            with suppress(OSError):
                held.append(socket.create_connection(("127.0.0.1", port), 5, ("127.0.0.3", 0)))
            for each in held[:-_IDLE]:
                each.close()
            del held[:-_IDLE]
        for each in held:
            each.close()

    def _flood(self) -> None:
        paths = ("/?q=-nothing", "/facets?q=", "/?q=key:*a*")
        images = [f"/image?of={self._scene.site.name}/forged-{number}.jpg" for number in range(5)]
        while not self._ended.is_set():
            for path in (*paths, *images):
                with suppress(OSError, http.client.HTTPException), closing(self._connection("127.0.0.4")) as connection:
                    connection.request("GET", path)
                    connection.getresponse().read()

    def _read_page(self) -> None:
        while not self._ended.wait(0.5):
            for path in ("/livez", "/", "/readyz"):
                started = time.monotonic()
                try:
                    with closing(self._connection("127.0.0.2")) as connection:
                        connection.request("GET", path)
                        answer = connection.getresponse()
                        answer.read()
                    if answer.status != 200:
                        self.wrong.append(f"{path}: {answer.status}")
                except OSError as error:
                    self.wrong.append(f"{path}: {error}")
                self.page_s.append(time.monotonic() - started)

    def _read_rows(self) -> None:
        with closing(connected(self._settings, made=False)) as tables:
            text = "select key, last_modified from image where key like 'good-%' and not gone"
            before = {key for key, _ in tables.execute(text)}
            while not self._ended.wait(0.2):
                for key, stored_at in tables.execute(text):
                    if key not in before:
                        self.rows_s.setdefault(key, time.time() - stored_at.timestamp())
