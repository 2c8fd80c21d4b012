"""Several workers' probes and metrics as one answer, over real Unix sockets."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from tests.unit.service.test_endpoint import OPEN_METRICS
from workers.service.gathering import Gathering, Idleness, merged, socket_of
from workers.service.http import Endpoint, PageRequest
from workers.settings import WorkerPart
from workers.types import Health

TEXT = b"""# HELP some_total What it counts.
# TYPE some_total counter
some_total{kind="a, # b"} 3.0
some_total 1.0
# HELP flat A gauge.
# TYPE flat gauge
flat 2.0
"""
OPEN = b"""# HELP some What it counts.
# TYPE some counter
some_total{kind="a"} 3.0 # {trace_id="ab"} 1.0 1.5
# HELP flat A gauge.
# TYPE flat gauge
flat 2.0
# EOF
"""


class Workers:
    """Endpoints of workers, as their processes have them."""

    def __init__(self, folder: Path, count: int, cleanup: ExitStack) -> None:
        self.parts = [WorkerPart(number, count, folder) for number in range(1, count + 1)]
        self.ready = dict.fromkeys(range(1, count + 1), Health(True, (), 9.0))
        self._cleanup = cleanup
        self._gathering = Gathering(self.parts)

    def start(self, *numbers: int) -> None:
        for number in numbers:
            reports: dict[str, Callable[[], Health]] = dict.fromkeys(("/livez", "/startupz"), lambda: Health(True))
            reports["/readyz"] = partial(self.ready.__getitem__, number)
            endpoint = Endpoint(str(socket_of(self.parts[number - 1])), 0, reports, lambda: TEXT, lambda: OPEN)
            self._cleanup.callback(endpoint.close)

    def hang(self, *numbers: int) -> None:
        """These accept connections and say nothing."""
        for number in numbers:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(socket_of(self.parts[number - 1])))
            listener.listen()
            self._cleanup.enter_context(listener)

    def get(self, path: str, accept: str = "") -> tuple[int, str]:
        answer = self._gathering.answer(PageRequest(path, accept))
        return answer.status, answer.body.decode()

    def report(self, path: str) -> tuple[int, list[str]]:
        status, body = self.get(path)
        return status, json.loads(body)["reasons"]


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def workers(folder: Path, count: int, cleanup: ExitStack) -> Workers:
    return Workers(folder, count, cleanup)


def test_all_are_ready_when_each_is_and_else_each_says_why(tmp_path: Path, cleanup: ExitStack) -> None:
    made = workers(tmp_path, 2, cleanup)
    made.start(1, 2)
    made.ready[1] = Health(True, ("a bucket is away",))
    assert made.report("/readyz") == (200, ["worker 1: a bucket is away"])
    made.ready[2] = Health(False, ("joining the group",))
    assert made.report("/readyz") == (503, ["worker 1: a bucket is away", "worker 2: joining the group"])
    assert made.report("/livez") == (200, [])
    assert made.get("/other")[0] == 404


def test_a_worker_that_starts_again_is_alive_and_neither_started_nor_ready(tmp_path: Path, cleanup: ExitStack) -> None:
    made = workers(tmp_path, 2, cleanup)
    made.start(2)
    told = ["worker 1: it is not running"]
    assert [made.report(path) for path in ("/livez", "/startupz", "/readyz")] == [(200, told), (503, told), (503, told)]


def test_a_worker_that_hangs_is_not_alive(tmp_path: Path, cleanup: ExitStack) -> None:
    made = workers(tmp_path, 2, cleanup)
    made.start(1)
    made.hang(2)
    assert made.report("/livez") == (503, ["worker 2: it does not answer"])


def test_a_scrape_of_eight_takes_a_second_at_most_and_says_which_worker_hangs(
    tmp_path: Path, cleanup: ExitStack
) -> None:
    made = workers(tmp_path, 8, cleanup)
    made.start(*range(1, 7))
    made.hang(7)
    pages = []

    def scrape_s() -> float:
        began = time.monotonic()
        pages.append(made.get("/metrics")[1])
        return time.monotonic() - began

    assert any(scrape_s() <= 1.0 for _ in range(5)), "a busy machine may delay one, and not each"
    families = {family.name: family for family in prometheus(pages[-1])}
    answers = {sample.labels["worker"]: sample.value for sample in families["tagstream_worker_answers"].samples}
    assert answers == {str(number): float(number < 7) for number in range(1, 9)}
    assert {sample.labels["worker"] for sample in families["flat"].samples} == set("123456")


def test_samples_of_a_family_stand_together_with_the_label_of_their_worker(tmp_path: Path, cleanup: ExitStack) -> None:
    made = workers(tmp_path, 2, cleanup)
    made.start(1, 2)
    (family,) = (each for each in prometheus(made.get("/metrics")[1]) if each.name == "some")
    assert [(sample.labels, sample.value) for sample in family.samples] == [
        ({"worker": "1", "kind": "a, # b"}, 3.0),
        ({"worker": "1"}, 1.0),
        ({"worker": "2", "kind": "a, # b"}, 3.0),
        ({"worker": "2"}, 1.0),
    ]


def test_open_metrics_keep_their_exemplars_and_end_once(tmp_path: Path, cleanup: ExitStack) -> None:
    made = workers(tmp_path, 2, cleanup)
    made.start(1, 2)
    families = {each.name: each for each in open_metrics(made.get("/metrics", OPEN_METRICS)[1])}  # type: ignore[no-untyped-call]
    assert {"some", "flat", "tagstream_worker_answers"} == set(families)
    first, second = families["some"].samples
    assert (first.labels["worker"], second.labels["worker"]) == ("1", "2")
    assert first.exemplar is not None
    assert first.exemplar.labels == {"trace_id": "ab"}


def test_a_page_of_no_worker_has_what_is_known_of_all() -> None:
    assert merged({}, b"# TYPE a gauge\na 1") == b"# TYPE a gauge\na 1\n"


def test_workers_are_idle_once_all_are_ready_and_idle_for_that_long(tmp_path: Path, cleanup: ExitStack) -> None:
    made = workers(tmp_path, 2, cleanup)
    idle = Idleness(made.parts, 0.05)
    made.start(1)
    assert not idle(), "one is not running"
    made.start(2)
    made.ready[2] = Health(True, (), 0.0)
    assert not idle()
    time.sleep(0.1)
    assert not idle(), "one has work"
    made.ready[2] = Health(True, (), 5.0)
    assert idle()
    made.ready[1] = Health(False, ("joining the group",), 5.0)
    assert not idle()
