"""The endpoint over real HTTP on loopback."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from workers.errors import Misconfigured
from workers.service.endpoint import Endpoint
from workers.service.health import Health, Readiness


@dataclass
class Line:
    """Stands for a pipeline's progress."""

    ok: bool = True
    reasons: tuple[str, ...] = ()
    in_flight: dict[str, int] = field(default_factory=dict)


@dataclass
class Served:
    endpoint: Endpoint
    line: Line
    readiness: Readiness

    def get(self, path: str) -> tuple[int, str, str]:
        url = f"http://127.0.0.1:{self.endpoint.port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode(), answer.headers["content-type"]
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), error.headers["content-type"]


@pytest.fixture
def served() -> Iterator[Served]:
    line, readiness = Line(), Readiness()
    endpoint = Endpoint("127.0.0.1", 0, alive=lambda: line, ready=readiness, metrics_page=lambda: b"some_total 3\n")
    yield Served(endpoint, line, readiness)
    endpoint.close()


def test_a_live_worker_answers_200(served: Served) -> None:
    status, body, kind = served.get("/livez")
    assert (status, json.loads(body)) == (200, {"ok": True, "reasons": []})
    assert kind == "application/json"


def test_a_stalled_worker_answers_503_with_its_reasons_and_what_is_in_flight(served: Served) -> None:
    served.line.ok, served.line.reasons = False, ("annotate: nothing moved for 61 s",)
    served.line.in_flight = {"annotate": 4}
    status, body, _ = served.get("/livez")
    assert status == 503
    assert json.loads(body) == {
        "ok": False,
        "reasons": ["annotate: nothing moved for 61 s"],
        "in_flight": {"annotate": 4},
    }


def test_readiness_begins_as_not_ready_and_follows_what_it_is_told(served: Served) -> None:
    assert served.get("/readyz")[0] == 503
    served.readiness.now_ready()
    assert served.get("/readyz")[0] == 200
    served.readiness.not_ready("draining")
    status, body, _ = served.get("/readyz")
    assert (status, json.loads(body)["reasons"]) == (503, ["draining"])


def test_metrics_come_in_prometheus_text_format(served: Served) -> None:
    status, body, kind = served.get("/metrics")
    assert (status, body) == (200, "some_total 3\n")
    assert kind.startswith("text/plain; version=")


def test_another_path_is_not_found(served: Served) -> None:
    assert served.get("/")[0] == 404


def test_a_taken_port_is_told_with_what_to_do(served: Served) -> None:
    with pytest.raises(Misconfigured, match="Set TAGSTREAM_HTTP_PORT to another port"):
        Endpoint("127.0.0.1", served.endpoint.port, alive=Readiness(), ready=Readiness(), metrics_page=bytes)


def test_an_address_that_is_not_ours_is_told() -> None:
    with pytest.raises(Misconfigured, match=r"192\.0\.2\.1"):
        Endpoint("192.0.2.1", 0, alive=lambda: Health(True), ready=lambda: Health(True), metrics_page=bytes)


def test_after_close_nobody_listens(served: Served) -> None:
    served.get("/livez")
    served.endpoint.close()
    with pytest.raises(urllib.error.URLError):
        served.get("/livez")
