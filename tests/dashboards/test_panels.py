"""Every query of every panel has an answer in a real Prometheus that scrapes real workers."""

import os
import re
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from index.tests.support import enriched
from index.tests.world import World
from remote.tests.stub import StubService
from scripts.dashboards.__main__ import ALL
from scripts.dashboards.grafana import WORKERS, Panel
from sharpness.model import make_bundle
from tagstream_testing.local.postgresql import PostgreSQL
from tagstream_testing.local.scratch import Scratch
from tests.chaos.shared_worker import SharedWorker
from tests.dashboards.life import SETTINGS, Life, fail, failing_device
from tests.dashboards.watching import place
from tests.fixtures import Stack
from tests.support.captioned import KEY, send, settings_of
from tests.support.prometheus import Prometheus, numbers
from tests.support.waiting import eventually
from tests.support.worker_process import Site, photo, worker

pytestmark = [pytest.mark.dashboards, pytest.mark.timeout(1_500)]

PANELS = [(dashboard.uid, panel) for dashboard in ALL for row in dashboard.rows for panel in row.panels]
ROOT = Path(__file__).parents[2]
Asked = Callable[[str], list[float]]


@pytest.fixture(scope="module")
def asked(stack: Stack, postgresql: PostgreSQL, scratch: Scratch, prometheus: Prometheus) -> Asked:
    """Asks Prometheus a query over the life of two workers, two more that one parent has, and an indexer."""
    folder = scratch.path / "panels"
    folder.mkdir()
    began = time.time()
    other_site, captioned = Site(stack, "panels-failing"), Site(stack, "panels-several")
    with (
        failing_device(other_site, folder) as other,
        SharedWorker.started(stack, folder, **SETTINGS, **with_a_role(folder / "role")) as shared,
        StubService(key=KEY) as service,
        worker(captioned, "several", folder, TAGSTREAM_WORKERS="2", **settings_of(service, folder)) as several,
        closing(World(stack.kafka, postgresql, "panels-index", folder)) as index,
    ):
        workers = [place(each) for each in (shared.worker, other, several)]
        prometheus.scrape(tagstream=workers, index=[place(index.indexer().start())])
        index.publish([enriched("a", 1, caption="a\0dog")])
        fail(other_site, other)
        eventually(lambda: numbers(prometheus.now("sum(tagstream_ready)")) == [4], 60)
        request_caption(captioned, service, "422")
        before_s = Life(shared, folder).make()
        request_caption(captioned, service, "ok")
        index.publish([enriched("b", 1, caption="a\0cat")])
        last = time.time()
        eventually(lambda: max(numbers(prometheus.now("max(timestamp(tagstream_ready))"))) > last, 60)
    ended = time.time()
    values = {"job": ".+", "price": "2", "window": "10s", "baseline": f"{before_s:.0f}s", "__rate_interval": "10s"}

    def ask(expression: str) -> list[float]:
        filled = re.sub(r"\$(\w+)", lambda found: values[found[1]], expression.replace("WORKERS", WORKERS))
        return numbers(prometheus.over(filled, began, ended))

    return ask


def request_caption(site: Site, service: StubService, last: str) -> None:
    """One that is answered, and one that gets the last answer."""
    for number, answer in enumerate(("ok", last)):
        service.always(answer)
        site.upload(f"{last}-{number}", photo(len(service.asked)))
        send(site, [f"{last}-{number}"])
        eventually(lambda: site.behind() == 0, 120)


@pytest.mark.parametrize(
    "panel", [panel for _, panel in PANELS], ids=[f"{uid}: {panel.title}" for uid, panel in PANELS]
)
def test_a_panel_shows_something(asked: Asked, panel: Panel) -> None:
    without = [query.expression for query in panel.queries if not asked(query.expression)]
    assert without == []


def test_a_query_without_data_is_found_out(asked: Asked) -> None:
    assert asked('sum(rate(tagstream_outcomes_total{kind="no such kind",WORKERS}[$__rate_interval]))') == []


def with_a_role(folder: Path) -> dict[str, str]:
    """Settings of a worker to which the package of examples/role is as if installed."""
    facts = folder / "sharpness-1.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: sharpness\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[tagstream.roles]\nsharpness = sharpness:SharpnessKind\n")
    return {
        "PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT / "examples" / "role", ROOT))),
        "TAGSTREAM_ROLES": f"sharpness={make_bundle(folder / 'bundle').folder}",
        "TAGSTREAM_WANT": "tags,caption,sharpness",
    }
