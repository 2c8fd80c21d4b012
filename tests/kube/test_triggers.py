"""Triggers compared on the same load: a guessed threshold, a measured one, and seconds of work by Prometheus."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from tagstream_testing.local.scratch import Scratch
from tests.fixtures import up_or_skip
from tests.kube.prometheus import PodsPrometheus
from tests.kube.report import Report
from tests.kube.rollout import (
    ONE_PROCESSOR,
    PHOTOS,
    Patch,
    Rollout,
    Sample,
    done,
    in_the_end,
    settled,
    slow_store,
    steps,
    turns,
)
from tests.support.waiting import meanwhile
from tests.support.worker_process import Site

pytestmark = [pytest.mark.kube, pytest.mark.timeout(3600)]

BURST, STEADY_S, WAIT_S = 240, 1.0, 30
"""A burst of this many events, then one every second; the longest wait."""
IMAGE_S = 0.5
"""Of an image, for a worker."""
GUESSED = 1440
FEWER = {"stabilizationWindowSeconds": 20, "policies": [{"type": "Percent", "value": 50, "periodSeconds": 15}]}
QUICK = Patch(
    "ScaledObject",
    {"maxReplicaCount": 6, "advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"scaleDown": FEWER}}}},
)


@dataclass(frozen=True)
class Trigger:
    """One way to scale: a threshold of the trigger for Kafka; None: the component `measured-rate`."""

    name: str
    threshold: int | None

    def patches(self, prometheus: PodsPrometheus) -> Sequence[Patch]:
        if self.threshold is not None:
            return [_replaced("/spec/triggers/0/metadata/lagThreshold", str(self.threshold))]
        fair = f"lag <= 0 ? 0 : find([1, 2, 3, 4, 6, 12], # * max(rate, 0.5) * {WAIT_S} >= lag || # == 12)"
        return [
            _replaced("/spec/triggers/1/metadata/serverAddress", prometheus.url),
            _replaced("/spec/advanced/scalingModifiers/formula", fair),
        ]

    @property
    def components(self) -> Sequence[str]:
        return ["measured-rate"] if self.threshold is None else []


def _replaced(path: str, value: str) -> Patch:
    return Patch("ScaledObject", [{"op": "replace", "path": path, "value": value}])


TRIGGERS = [
    Trigger("a threshold that was guessed", GUESSED),
    Trigger("a threshold from the measured rate", round(WAIT_S / IMAGE_S)),
    Trigger("seconds of work, by Prometheus", None),
]


@pytest.fixture(scope="module")
def prometheus(scratch: Scratch) -> Iterator[PodsPrometheus]:
    yield from up_or_skip(PodsPrometheus(scratch.path / "prometheus"))


def drained(samples: Sequence[Sample]) -> float:
    """Seconds until no more waited than comes and goes all the time."""
    return next(each.at_s for each in samples if each.at_s > 10 and each.lag <= 6)


def loaded(rollout: Rollout, site: Site, trigger: Trigger, prometheus: PodsPrometheus) -> list[Sample]:
    steady = [(site.own(f"{number}.jpg"), ()) for number in range(PHOTOS)]
    sent = [0]

    def one() -> None:
        site.send([steady[sent[0] % PHOTOS]])
        sent[0] += 1

    with slow_store([site], IMAGE_S) as settings, prometheus.scraping(rollout.ready):
        patches = [*trigger.patches(prometheus), QUICK, ONE_PROCESSOR]
        rollout.apply(components=trigger.components, patches=patches, **settings)
        assert rollout.plane.warned == []
        in_the_end(lambda: len(rollout.ready()) == 1, rollout.said)
        in_the_end(rollout.scaled_object_ready, rollout.plane.operator.log_tail)
        with rollout.recorded() as samples, meanwhile(one, STEADY_S):
            site.send([(site.own(f"{number % PHOTOS}.jpg"), ()) for number in range(BURST)])
            in_the_end(lambda: samples and samples[-1].at_s > 10 and samples[-1].lag <= 6, rollout.said)
            in_the_end(lambda: rollout.replicas() == 1, rollout.plane.operator.log_tail)
        in_the_end(lambda: done(site), rollout.said)
    settled(site)
    return samples


@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: trigger.name)
def test_a_burst_is_done_by_as_many_workers_as_it_takes(
    rollout: Rollout, site: Site, report: Report, prometheus: PodsPrometheus, trigger: Trigger
) -> None:
    samples = loaded(rollout, site, trigger, prometheus)
    report.trigger(trigger.name, samples, len(steps(samples)), drained(samples))
    most = max(sample.wanted for sample in samples)
    if trigger.threshold == GUESSED:
        assert most == 1, "the guess is for far faster workers"
    else:
        assert most in {3, 4, 6}
        assert turns(samples) == 1, "the number of workers went up and down more than once"
