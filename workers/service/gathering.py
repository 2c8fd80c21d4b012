"""Probes and metrics of several worker processes as one answer: each is asked on its own Unix socket."""

from __future__ import annotations

import logging
import re
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

from pydantic_core import from_json

from workers import metrics
from workers.service.http import Answer, PageRequest, not_found, report_page
from workers.settings import WorkerPart
from workers.types import Health

logger = logging.getLogger(__name__)

ASK_S = 0.8
"""Seconds for each step of a worker's answer; the kubelet waits two."""
_IDLE_ASK_S = 0.3
_NAME = re.compile(rb"[a-zA-Z_:][a-zA-Z0-9_:]*")
_END = b"# EOF"
_ANSWERS = metrics.WORKER_ANSWERS.metric

_ABSENT: Final = Answer(0, "", b"it is not running")
_HANGS: Final = Answer(0, "", b"it does not answer")


def socket_of(part: WorkerPart) -> Path:
    """Where a process of several answers."""
    assert part.folder is not None
    return part.folder / f"{part.number}.sock"


class Gathering:
    """Answers requests with the answers of all workers.

    A worker that is not running, because it starts again, is alive and not ready. One that does not answer is not
    alive. Both are left out of /metrics, where `tagstream_worker_answers` says so.
    """

    def __init__(self, parts: Sequence[WorkerPart]) -> None:
        self._parts = parts
        self._pool = ThreadPoolExecutor(len(parts), "ask")

    def answer(self, request: PageRequest) -> Answer:
        if request.path not in ("/livez", "/startupz", "/readyz", "/metrics"):
            return not_found()
        answers = self._pool.map(partial(ask, request=request), self._parts)
        found = {part.number: answer for part, answer in zip(self._parts, answers, strict=True)}
        for number, answer in found.items():
            if answer is _HANGS:
                logger.warning("worker %d does not answer %s", number, request.path)
        return _metrics(found) if request.path == "/metrics" else _report(request.path, found)


class Idleness:
    """Whether all workers have been ready and idle for so many seconds."""

    def __init__(self, parts: Sequence[WorkerPart], seconds: float) -> None:
        self._parts = parts
        self._seconds = seconds
        self._ready_since: float | None = None

    def __call__(self) -> bool:
        now = time.monotonic()
        answers = [ask(part, PageRequest("/readyz", ""), _IDLE_ASK_S) for part in self._parts]
        if any(answer.status != HTTPStatus.OK for answer in answers):
            self._ready_since = None
            return False
        self._ready_since = self._ready_since or now
        idle_s: float = min(from_json(answer.body)["idle_s"] for answer in answers)
        return min(idle_s, now - self._ready_since) >= self._seconds


def ask(part: WorkerPart, request: PageRequest, limit_s: float = ASK_S) -> Answer:
    """A worker's answer, or `_ABSENT` or `_HANGS`."""
    connection = HTTPConnection("worker")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(limit_s)
    try:
        connection.sock.connect(str(socket_of(part)))
        connection.request("GET", request.path, headers={"Accept": request.accept})
        answer = connection.getresponse()
        return Answer(answer.status, answer.getheader("Content-Type", ""), answer.read())
    except TimeoutError:
        return _HANGS
    except (OSError, HTTPException):
        return _ABSENT
    finally:
        connection.close()


def _report(path: str, found: Mapping[int, Answer]) -> Answer:
    ok = True
    reasons: list[str] = []
    in_flight: Counter[str] = Counter()
    for number, answer in found.items():
        if answer.status == 0:
            ok = ok and answer is _ABSENT and path == "/livez"
            reasons.append(f"worker {number}: {answer.body.decode()}")
            continue
        told = from_json(answer.body)
        ok = ok and told["ok"]
        reasons += [f"worker {number}: {reason}" for reason in told["reasons"]]
        in_flight.update(told.get("in_flight", {}))
    return report_page(Health(ok, tuple(reasons), in_flight=in_flight))


def _metrics(found: Mapping[int, Answer]) -> Answer:
    kinds = [answer.content_type for answer in found.values() if answer.status == 200]
    pages = {number: answer.body for number, answer in found.items() if answer.status == 200}
    told = [f"# HELP {_ANSWERS.name} {_ANSWERS.meaning}", f"# TYPE {_ANSWERS.name} gauge"]
    told += [f'{_ANSWERS.name}{{worker="{number}"}} {float(number in pages)}' for number in found]
    return Answer(200, kinds[0] if kinds else "text/plain; version=0.0.4", merged(pages, "\n".join(told).encode()))


def merged(pages: Mapping[int, bytes], more: bytes) -> bytes:
    """One page of metrics, each sample with the label `worker`.

    Args:
        pages: in Prometheus' text format or OpenMetrics, by the number of their worker.
    """
    families: dict[bytes, tuple[dict[bytes, None], list[bytes]]] = {}
    end = False
    for number, page in pages.items():
        label = f'worker="{number}"'.encode()
        samples: list[bytes] = []
        for line in page.splitlines():
            if line == _END:
                end = True
            elif line.startswith(b"# "):
                head, samples = families.setdefault(line.split(b" ", 3)[2], ({}, []))
                head[line] = None
            elif line:
                samples.append(_labelled(line, label))
    lines = [line for head, samples in families.values() for line in (*head, *samples)]
    return b"\n".join((*lines, more, *([_END] if end else ()), b""))


def _labelled(line: bytes, label: bytes) -> bytes:
    name = _NAME.match(line)
    assert name is not None
    rest = line[name.end() :]
    return b"%b{%b,%b" % (name[0], label, rest[1:]) if rest.startswith(b"{") else b"%b{%b}%b" % (name[0], label, rest)
