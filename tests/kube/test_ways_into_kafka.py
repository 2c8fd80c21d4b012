"""Each component that touches the autoscaler, applied: KEDA's webhook takes it, and KEDA itself reads the lag by it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import yaml
from confluent_kafka import Consumer, TopicPartition

from tagstream_testing.local.scratch import Scratch
from tests.fixtures import Stack, Unique, up_or_skip
from tests.kube.control_plane import ApiError, ControlPlane, Refused
from tests.kube.node import Node
from tests.kube.prometheus import PodsPrometheus
from tests.kube.rollout import ONE_PROCESSOR, Patch, Rollout, done, in_the_end, settled
from tests.support.secure_kafka import PASSWORD, USER, SecureKafka
from tests.support.worker_process import Site, photo
from workers.backends.kafka import KafkaEmitter, ensure_topics

pytestmark = [pytest.mark.kube, pytest.mark.timeout(3600)]

EVENTS, THRESHOLD = 500, 200
EVEN = 3 * THRESHOLD
"""As KEDA rounds this lag up: three workers share the twelve partitions evenly."""
LOW = Patch(
    "ScaledObject", [{"op": "replace", "path": "/spec/triggers/0/metadata/lagThreshold", "value": str(THRESHOLD)}]
)
WAYS: dict[tuple[str, ...], int] = {
    ("kafka-sasl-tls",): EVEN,
    ("kafka-mtls",): EVEN,
    ("several-topics",): EVENTS,
    ("kafka-sasl-tls", "several-topics"): EVENTS,
    ("several-topics", "kafka-mtls"): EVENTS,
    ("kafka-sasl-tls", "scale-to-zero"): EVEN,
    ("kafka-mtls", "backfill"): EVEN,
}
"""Components, and the lag that KEDA makes of EVENTS events."""


CAP = 2 * THRESHOLD
LANES: dict[tuple[str, ...], tuple[int, int, float, int]] = {
    ("lanes", "kafka-sasl-tls"): (EVENTS, EVENTS, EVENTS + CAP, 5),
    ("kafka-mtls", "lanes"): (EVENTS, 1, EVENTS + 1, 3),
    ("lanes", "scale-to-zero"): (0, EVENTS, CAP, 2),
    ("scale-to-zero", "lanes"): (0, 1, 1, 1),
    ("kafka-sasl-tls", "measured-rate", "lanes"): (EVENTS, EVENTS, 4, 4),
}
"""Components, events of the live and of the background topic, what KEDA makes of them, and the workers for it."""


@pytest.fixture(scope="module")
def prometheus(scratch: Scratch) -> Iterator[PodsPrometheus]:
    yield from up_or_skip(PodsPrometheus(scratch.path / "prometheus"))


@pytest.fixture(scope="module")
def broker(scratch: Scratch) -> Iterator[SecureKafka]:
    yield from up_or_skip(SecureKafka(scratch.path / "secure-kafka"))


@pytest.fixture
def site(broker: SecureKafka, stack: Stack, unique: Unique) -> Site:
    return Site(Stack(broker, stack.s3, stack.valkey), unique("ways"), partitions=12)


@pytest.fixture
def secrets(broker: SecureKafka) -> dict[str, str]:
    certificate, key = broker.authority.sign("worker")
    return {
        "kafka-user": USER,
        "kafka-password": PASSWORD,
        "kafka-ca": broker.authority.certificate.read_text(),
        "kafka-cert": certificate.read_text(),
        "kafka-key": key.read_text(),
    }


@pytest.fixture
def without_node(
    plane: ControlPlane, site: Site, secrets: dict[str, str], tmp_path: Path
) -> Iterator[Callable[[str], Rollout]]:
    """Makes an overlay, by the name of its Deployment, with pods that find no node: the lag stays constant."""
    made: list[Rollout] = []

    def make(name: str) -> Rollout:
        rollout = Rollout(plane, Node(plane.api, tmp_path / "pods"), site, tmp_path / "overlay", name)
        rollout.secrets = secrets
        made.append(rollout)
        return rollout

    yield make
    for rollout in made:
        rollout.delete()


def servers(broker: SecureKafka, components: Sequence[str]) -> str:
    if "kafka-sasl-tls" in components:
        return broker.login
    return broker.mutual if "kafka-mtls" in components else broker.servers


def read(rollout: Rollout) -> float:
    """The lag that KEDA reads; -1: it can't yet."""
    try:
        return rollout.metric()
    except (ApiError, KeyError):
        return -1


def commit_nothing_done(site: Site) -> None:
    """The group's offsets, all 0: of several topics KEDA counts those with committed offsets."""
    member = Consumer({"bootstrap.servers": site.stack.kafka.servers, "group.id": site.name})
    try:
        places = [TopicPartition(site.images, number, 0) for number in range(site.partitions)]
        member.commit(offsets=places, asynchronous=False)
    finally:
        member.close()


@pytest.mark.parametrize("components", WAYS, ids="+".join)
def test_keda_takes_it_and_reads_the_lag(
    without_node: Callable[[str], Rollout], site: Site, broker: SecureKafka, components: tuple[str, ...]
) -> None:
    site.send([(site.own(f"{number}.jpg"), ()) for number in range(EVENTS)])
    commit_nothing_done(site)
    rollout = without_node("tagstream-backfill" if "backfill" in components else "tagstream")
    rollout.apply(components=components, patches=[LOW], TAGSTREAM_KAFKA_SERVERS=servers(broker, components))
    assert rollout.plane.warned == []
    in_the_end(rollout.scaled_object_ready, rollout.plane.operator.log_tail)
    in_the_end(lambda: read(rollout) == WAYS[components], rollout.plane.operator.log_tail)


@pytest.mark.parametrize("components", LANES, ids="+".join)
def test_background_lag_starts_workers_up_to_its_cap_beside_those_for_live_lag(
    without_node: Callable[[str], Rollout],
    site: Site,
    broker: SecureKafka,
    prometheus: PodsPrometheus,
    components: tuple[str, ...],
) -> None:
    """With nothing measured, the rate is 5 images/s, and 300 events a worker."""
    live, background, lag, workers = LANES[components]
    backfill = f"{site.name}.backfill"
    ensure_topics(site.stack.kafka.servers, {backfill: (site.partitions, {})})
    own = {"/spec/triggers/0/metadata/topic": site.images, "/spec/triggers/1/metadata/topic": backfill}
    if "measured-rate" in components:
        own["/spec/triggers/2/metadata/serverAddress"] = prometheus.url
    else:
        modifiers = "/spec/advanced/scalingModifiers"
        own |= {f"{modifiers}/target": str(THRESHOLD), f"{modifiers}/formula": f"live + min(background, {CAP})"}
    least = 0 if "scale-to-zero" in components else 1
    patches = [Patch("ScaledObject", [{"op": "replace", "path": path, "value": own[path]} for path in own])]
    patches += [] if least else [Patch("ScaledObject", {"pollingInterval": 5, "cooldownPeriod": 10})]
    rollout = without_node("tagstream")
    rollout.apply(
        components=components,
        patches=patches,
        TAGSTREAM_KAFKA_SERVERS=servers(broker, components),
        TAGSTREAM_INPUT_TOPICS=f"{site.images},{backfill}:background",
    )
    assert rollout.plane.warned == []
    in_the_end(lambda: rollout.replicas() == least, rollout.plane.operator.log_tail)
    site.send([(site.own(f"{number}.jpg"), ()) for number in range(live)])
    with KafkaEmitter(site.stack.kafka.servers) as emitter:
        for number in range(background):
            emitter.send(backfill, f"key-{number}".encode(), site.own(f"{number}.jpg"), ())
        emitter.flush()
    in_the_end(lambda: read(rollout) == lag, rollout.plane.operator.log_tail)
    in_the_end(lambda: rollout.replicas() == workers, rollout.plane.operator.log_tail)


@pytest.mark.parametrize("way", ["kafka-sasl-tls", "kafka-mtls"])
def test_the_workers_log_in_as_keda_does(
    rollout: Rollout, site: Site, broker: SecureKafka, secrets: dict[str, str], way: str
) -> None:
    for number in range(8):
        site.upload(f"{number}.jpg", photo(number))
    site.send([(site.own(f"{number % 8}.jpg"), ()) for number in range(24)])
    rollout.secrets = secrets
    rollout.apply(components=[way], patches=[ONE_PROCESSOR], TAGSTREAM_KAFKA_SERVERS=servers(broker, [way]))
    in_the_end(lambda: done(site), rollout.said)
    least = float(rollout.scaled_object()["spec"]["triggers"][0]["metadata"]["lagThreshold"])
    in_the_end(lambda: read(rollout) == least, rollout.plane.operator.log_tail)
    settled(site)


def test_a_wrong_password_is_reported(
    without_node: Callable[[str], Rollout], broker: SecureKafka, secrets: dict[str, str]
) -> None:
    secrets["kafka-password"] = "another"
    rollout = without_node("tagstream")
    rollout.apply(components=["kafka-sasl-tls"], TAGSTREAM_KAFKA_SERVERS=broker.login)
    in_the_end(lambda: rollout.condition("Ready") == "False", rollout.plane.operator.log_tail)
    assert "SASL Authentication failed" in rollout.plane.operator.log.read_text(errors="replace")


def test_where_kafka_answers_with_an_error_the_workers_are_two_at_least(
    without_node: Callable[[str], Rollout], site: Site, broker: SecureKafka
) -> None:
    """Several topics without their component: KEDA asks for one topic of that name."""
    rollout = without_node("tagstream")
    both = f"{site.images},{site.enriched}"
    rollout.apply(TAGSTREAM_KAFKA_SERVERS=broker.servers, TAGSTREAM_INPUT_TOPICS=both)
    in_the_end(lambda: rollout.condition("Fallback") == "True", rollout.plane.operator.log_tail)
    in_the_end(lambda: rollout.replicas() == 2, rollout.plane.operator.log_tail)


def test_while_kafka_is_away_the_number_of_workers_stays(
    without_node: Callable[[str], Rollout], site: Site, broker: SecureKafka
) -> None:
    """KEDA then has no scaler, and so no fallback either: Kubernetes' autoscaler gets no number and changes nothing."""
    site.send([(site.own(f"{number}.jpg"), ()) for number in range(EVENTS)])
    rollout = without_node("tagstream")
    rollout.apply(patches=[LOW], TAGSTREAM_KAFKA_SERVERS=broker.servers)
    in_the_end(lambda: rollout.replicas() == 3, rollout.plane.operator.log_tail)
    broker.kill()
    try:
        in_the_end(lambda: not rollout.autoscaler_gets_a_number(), rollout.plane.operator.log_tail)
        assert rollout.replicas() == 3
    finally:
        broker.start()
    in_the_end(rollout.autoscaler_gets_a_number, rollout.plane.operator.log_tail)
    assert rollout.replicas() == 3


def test_a_formula_that_names_no_trigger_is_refused_when_it_is_applied(
    without_node: Callable[[str], Rollout], broker: SecureKafka
) -> None:
    wrong = Patch("ScaledObject", {"advanced": {"scalingModifiers": {"formula": "nosuch / 2", "target": "1"}}})
    rollout = without_node("tagstream")
    with pytest.raises(Refused, match=r"(?s)vscaledobject.kb.io.*nosuch"):
        rollout.apply(patches=[wrong], TAGSTREAM_KAFKA_SERVERS=broker.servers)


def test_a_second_autoscaler_of_the_same_workers_is_refused_when_it_is_applied(
    without_node: Callable[[str], Rollout], broker: SecureKafka
) -> None:
    rollout = without_node("tagstream")
    rollout.apply(TAGSTREAM_KAFKA_SERVERS=broker.servers)
    in_the_end(rollout.scaled_object_ready, rollout.plane.operator.log_tail)
    first = rollout.scaled_object()
    second = {
        **{name: first[name] for name in ("apiVersion", "kind", "spec")},
        "metadata": {"name": "second", "namespace": "tagstream"},
    }
    # The webhook looks for another ScaledObject and for another's HorizontalPodAutoscaler, in an order that changes
    # from call to call (`validateWorkload` has them in a Go map). Both exist, and it reports the first that it finds.
    with pytest.raises(Refused, match=r"already managed by the (ScaledObject 'tagstream'|hpa 'keda-hpa-tagstream')"):
        rollout.plane.kubectl("apply", "-f", "-", given=yaml.safe_dump(second))
