"""The endpoint over real HTTP on loopback."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from workers.errors import Misconfigured
from workers.service.http import Endpoint
from workers.types import Health


@dataclass
class Served:
    endpoint: Endpoint
    alive: Health
    start: Health
    ready: Health

    def get(self, path: str, **headers: str) -> tuple[int, str, str]:
        url = f"http://127.0.0.1:{self.endpoint.port}{path}"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
                return answer.status, answer.read().decode(), answer.headers["content-type"]
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), error.headers["content-type"]


@pytest.fixture
def served() -> Iterator[Served]:
    made: Served
    reports = {"/livez": lambda: made.alive, "/startupz": lambda: made.start, "/readyz": lambda: made.ready}
    endpoint = Endpoint("127.0.0.1", 0, reports, lambda: b"some_total 3\n", lambda: b"some_total 3\n# EOF\n")
    made = Served(endpoint, Health(True), Health(False, ("loading the models",)), Health(False))
    yield made
    endpoint.close()


def test_a_live_worker_answers_200_and_a_stalled_one_503_with_its_reasons_and_images(served: Served) -> None:
    status, body, kind = served.get("/livez")
    assert (status, json.loads(body), kind) == (200, {"ok": True, "reasons": []}, "application/json")
    served.alive = Health(False, ("annotate: nothing moved for 61 s",), in_flight={"annotate": 4})
    status, body, _ = served.get("/livez")
    assert status == 503
    assert json.loads(body) == {
        "ok": False,
        "reasons": ["annotate: nothing moved for 61 s"],
        "in_flight": {"annotate": 4},
    }


def test_readiness_begins_as_not_ready_and_follows_its_setter(served: Served) -> None:
    assert served.get("/readyz")[0] == 503
    served.ready = Health(True)
    assert served.get("/readyz")[0] == 200
    served.ready = Health(False, ("draining",))
    status, body, _ = served.get("/readyz")
    assert (status, json.loads(body)["reasons"]) == (503, ["draining"])


def test_metrics_come_in_prometheus_text_format(served: Served) -> None:
    status, body, kind = served.get("/metrics")
    assert (status, body) == (200, "some_total 3\n")
    assert kind.startswith("text/plain; version=")


OPEN_METRICS = "application/openmetrics-text"
PROMETHEUS_3 = (
    f"{OPEN_METRICS};version=1.0.0;escaping=allow-utf-8;q=0.6,{OPEN_METRICS};version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (PROMETHEUS_3, OPEN_METRICS),
        (OPEN_METRICS, OPEN_METRICS),
        ("*/*", "text/plain"),
        ("", "text/plain"),
        (",;=,;;q=,é", "text/plain"),
    ],
)
def test_metrics_come_in_the_form_that_the_client_would_rather_have(served: Served, accept: str, form: str) -> None:
    status, body, kind = served.get("/metrics", Accept=accept)
    assert (status, kind.partition(";")[0]) == (200, form)
    assert body == ("some_total 3\n# EOF\n" if form == OPEN_METRICS else "some_total 3\n")


def test_a_start_is_over_when_the_worker_says_so_whatever_the_readiness(served: Served) -> None:
    status, body, _ = served.get("/startupz")
    assert (status, json.loads(body)["reasons"]) == (503, ["loading the models"])
    served.start = Health(True)
    assert served.get("/startupz")[0] == 200
    assert served.get("/readyz")[0] == 503


@pytest.mark.parametrize("path", ["/", "/livez/", "/LIVEZ", "/metrics/../livez"])
def test_another_path_is_not_found_and_leads_nowhere(served: Served, path: str) -> None:
    assert served.get(path)[0] == 404


def test_a_taken_port_is_reported_with_its_remedy(served: Served) -> None:
    with pytest.raises(Misconfigured, match="Set TAGSTREAM_HTTP_PORT to another port"):
        Endpoint("127.0.0.1", served.endpoint.port, {}, bytes, bytes)


def test_a_foreign_address_is_reported() -> None:
    with pytest.raises(Misconfigured, match=r"192\.0\.2\.1"):
        Endpoint("192.0.2.1", 0, {}, bytes, bytes)


def test_after_close_the_port_is_closed(served: Served) -> None:
    served.get("/livez")
    served.endpoint.close()
    with pytest.raises(urllib.error.URLError):
        served.get("/livez")
