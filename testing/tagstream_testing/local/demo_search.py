"""The demo's index: an indexer, and a search of the new tags."""

from __future__ import annotations

import re
import shlex
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import ClassVar

from schemas.enriched_image import EnrichedImage
from tagstream_testing.local.demo_display import DemoDisplay
from tagstream_testing.local.demo_retag import tagstream
from tagstream_testing.local.demo_watch import Answer
from tagstream_testing.local.server import CannotStart
from tagstream_testing.local.stack import LocalStack
from tagstream_testing.local.worker_process import WorkerProcess

_PATIENCE_S = 60.0
_LAG = re.compile(r"^tagstream_index_lag\{[^}]*\} (\S+)$", re.MULTILINE)


class IndexProcess(WorkerProcess):
    """`tagstream index run`; up when it has joined its group."""

    name: ClassVar[str] = "indexer"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "workers", "index", "run"]

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "TAGSTREAM_INDEX_HTTP_PORT": str(self.ports[0])}

    def wait_for_all(self) -> None:
        """Return when the tables have all that was published.

        Raises:
            CannotStart: it ended, or is not done after a minute.
        """
        self.wait()
        deadline = time.monotonic() + _PATIENCE_S
        while self._lag() != 0:
            self.must_run()
            if time.monotonic() > deadline:
                raise CannotStart(self.complaint(f"is not done after {_PATIENCE_S:.0f} s"))
            time.sleep(0.1)

    def _lag(self) -> float | None:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            found = _LAG.search(answer.read().decode())
        return None if found is None else float(found[1])


class PageProcess(WorkerProcess):
    """`tagstream index serve`; up when it reaches the tables."""

    name: ClassVar[str] = "search page"

    def command(self) -> Sequence[str]:
        own = ["--port", str(self.ports[0]), *self._arguments]
        return [sys.executable, "-m", "workers", "index", "serve", *own]


def serve_page(stack: LocalStack) -> PageProcess:
    """The search page, up."""
    return stack.add(PageProcess(stack.scratch.path / "page", stack.environment())).start()


def begin_index(stack: LocalStack, worker: WorkerProcess) -> IndexProcess | None:
    """A starting indexer; None if its package is not installed."""
    if find_spec("tagstream_index") is None:
        return None
    tagstream(worker.folder, worker.environment(), "index", "init")
    made = stack.add(IndexProcess(stack.scratch.path / "indexer", stack.environment()))
    made.launch()
    return made


def show_search(display: DemoDisplay, indexer: IndexProcess, answers: Iterable[Answer | None], text: str) -> None:
    """Search for the most frequent tag, and for other words.

    Args:
        text: these words; empty: none.
    """
    tags = Counter(tag.name for each in answers if isinstance(each, EnrichedImage) for tag in each.tags)
    searched = [words for words, _ in tags.most_common(1)] + ([text] if text else [])
    if not searched:
        return
    display.title("Search: PostgreSQL has what was tagged, without the deleted image")
    indexer.wait_for_all()
    for words in searched:
        display.say(f"$ tagstream search {shlex.quote(words)}")
        for line in tagstream(indexer.folder, indexer.environment(), "search", words):
            display.say(line)
