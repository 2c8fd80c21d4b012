"""A backfill with live images: its workers use spare room, and give it back."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from schemas.enriched_image import EnrichedImage
from tests.fixtures import Stack, Unique
from tests.kube.control_plane import ControlPlane
from tests.kube.node import Node
from tests.kube.report import Report
from tests.kube.rollout import ONE_PROCESSOR, PHOTOS, Patch, Rollout, done, in_the_end, settled, slow_store
from tests.support.waiting import meanwhile
from tests.support.worker_process import Site

pytestmark = [pytest.mark.kube, pytest.mark.timeout(3600)]

ROOM = 4
"""Workers that fit on the only node."""
IMAGE_S, LIVE, WAITING, BURST = 0.5, 40, 750, 480
FEWER = {"stabilizationWindowSeconds": 20, "policies": [{"type": "Percent", "value": 50, "periodSeconds": 15}]}
SOON = {"advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"scaleDown": FEWER}}}}
HALF_A_MINUTE = Patch(
    "ScaledObject", [{"op": "replace", "path": "/spec/triggers/0/metadata/lagThreshold", "value": "60"}]
)
LIVE_PATCHES = [ONE_PROCESSOR, HALF_A_MINUTE, Patch("ScaledObject", {**SOON, "maxReplicaCount": 3})]
BACKFILL_PATCHES = [
    ONE_PROCESSOR,
    HALF_A_MINUTE,
    Patch("ScaledObject", {**SOON, "pollingInterval": 5, "cooldownPeriod": 10}),
]


@dataclass
class Both:
    """Live workers and a backfill's, on one node that is too small for all of them."""

    live: Rollout
    backfill: Rollout


@pytest.fixture
def both(plane: ControlPlane, stack: Stack, unique: Unique, tmp_path: Path) -> Iterator[Both]:
    sites = Site(stack, unique("live"), partitions=12), Site(stack, unique("backfill"), partitions=12)
    with Node(plane.api, tmp_path / "pods", unique("node"), {"cpu": str(ROOM)}) as node:
        live = Rollout(plane, node, sites[0], tmp_path / "live")
        backfill = Rollout(plane, node, sites[1], tmp_path / "backfill", "tagstream-backfill")
        yield Both(live, backfill)
        backfill.delete()
        live.delete()


def send(site: Site, count: int) -> None:
    site.send([(site.own(f"{number % PHOTOS}.jpg"), ()) for number in range(count)])


@contextmanager
def timed(site: Site, seen: list[float]) -> Iterator[None]:
    """One live event a second while the block runs; `seen` then has the seconds from each to its outcome, sorted."""
    sent: dict[str, float] = {}

    def one() -> None:
        name = f"live-{len(sent)}-{time.time_ns()}"
        sent[name] = time.time()
        site.send([(site.own(f"{len(sent) % PHOTOS}.jpg", id=name), ())])

    def answered() -> dict[str, float]:
        found = [output for output in site.outputs() if isinstance(output, EnrichedImage) and output.event.id in sent]
        return {str(each.event.id): datetime.fromisoformat(each.produced_at).timestamp() for each in found}

    with meanwhile(one, 1.0):
        in_the_end(lambda: len(sent) >= LIVE)
        yield
    in_the_end(lambda: answered().keys() == sent.keys())
    seen += sorted(at - sent[name] for name, at in answered().items())


def median(times: list[float]) -> float:
    return times[len(times) // 2]


@pytest.fixture
def settings(both: Both) -> Iterator[Mapping[str, str]]:
    with slow_store([both.live.site, both.backfill.site], IMAGE_S) as settings:
        yield settings


def test_a_backfill_delays_no_live_image_and_makes_room_for_live_workers(
    both: Both, settings: Mapping[str, str], report: Report
) -> None:
    live, backfill = both.live, both.backfill
    node = live.node
    live.apply(patches=LIVE_PATCHES, **settings)
    in_the_end(lambda: len(live.ready()) == 1, live.said)
    alone: list[float] = []
    with timed(live.site, alone):
        pass

    send(backfill.site, WAITING)
    backfill.apply(components=["backfill"], patches=BACKFILL_PATCHES, **settings)
    assert backfill.plane.warned == []
    in_the_end(lambda: len(backfill.ready()) == ROOM - 1, backfill.said)
    beside: list[float] = []
    with timed(live.site, beside):
        pass
    assert backfill.site.behind() > 0, "some live image waited until the backfill was over"
    report.waiting("live images alone", alone)
    report.waiting("beside a backfill", beside)

    send(live.site, BURST)
    began = time.monotonic()
    in_the_end(lambda: len(live.ready()) == 3, live.said)
    report.notes.append(f"Live workers had a backfill's places {time.monotonic() - began:.0f} s after the lag came.")
    assert len(backfill.pods()) <= ROOM - 3
    left = [pod for pod in node.left if pod.exits]
    assert {pod.app for pod in left} == {"tagstream-backfill"}, "a live worker made room"
    assert all(pod.exits == [0] for pod in left), backfill.said()

    in_the_end(lambda: done(live.site), live.said)
    send(backfill.site, BURST)  # if it was done meanwhile
    in_the_end(lambda: len(backfill.ready()) == ROOM - 1, backfill.said)  # it has its places back
    in_the_end(lambda: done(backfill.site), backfill.said)
    in_the_end(lambda: backfill.replicas() == 0 and not backfill.pods(), backfill.plane.operator.log_tail)
    settled(live.site)
    settled(backfill.site)


def test_the_same_images_in_the_live_topic_delay_live_ones(
    both: Both, settings: Mapping[str, str], report: Report
) -> None:
    """The result of the test above without a topic, group and workers for the backfill."""
    live = both.live
    live.apply(components=["fixed-size"], patches=[ONE_PROCESSOR], **settings)
    in_the_end(lambda: len(live.ready()) == 2, live.said)
    send(live.site, 200)
    times: list[float] = []
    with timed(live.site, times):
        pass
    report.waiting("behind 200 others in the live topic, two workers", times)
    assert median(times) > 10 * IMAGE_S
