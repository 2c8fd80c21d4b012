"""An image that was rejected is not looked into again: its bytes are known, here and in the cache."""

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from schemas.enriched_image import EnrichedImage
from tests.support.harness import BUCKET, ColourTagger, Harness, png
from tests.support.images import encoded, ramp
from tests.support.manual_pipeline import ManualPipeline
from tests.support.readers import read
from tests.support.waiting import eventually
from workers.errors import Rejected
from workers.intake import decoding
from workers.intake.header import Header, read_header
from workers.intake.limits import Limits
from workers.intake.transform import decode
from workers.pipeline.cache_entries import CERTAIN, pack_verdict, unpack_verdict
from workers.pipeline.worker import Worker
from workers.types import DecodedImage, FactsMode, Transform

CUT = png((1, 2, 3))[:-30]
"""Its header is in order, its pixels are not all there."""


class Decoders:
    """Counts how often they get bytes that stand for a bad image; opens the gates to let them begin."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inspected = self.decoded = 0
        self.gate, self.header_gate = threading.Event(), threading.Event()
        self.gate.set()
        self.header_gate.set()
        monkeypatch.setattr(decoding, "read_header", self._read_header)
        monkeypatch.setattr(decoding, "decode", self._decode)

    def _read_header(self, body: bytes, limits: Limits) -> Header:
        self.inspected += 1
        assert self.header_gate.wait(20)
        return read_header(body, limits)

    def _decode(
        self,
        body: bytes,
        name: str,
        transforms: Sequence[Transform],
        reducing_gap: float | None = None,
        facts: FactsMode = "off",
    ) -> DecodedImage:
        if reducing_gap is None:  # the image that is known to be good
            return decode(body, name, transforms)
        self.decoded += 1
        assert self.gate.wait(20)
        return decode(body, name, transforms, reducing_gap, facts)


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> Decoders:
    return Decoders(monkeypatch)


def _waiting(worker: Worker) -> int:
    return worker.progress().in_flight.get("wait-equal", 0)


def sent_one_after_the_other(harness: Harness, body: bytes, *names: str) -> list[tuple[str, str]]:
    for name in names:
        harness.store.put(BUCKET, name, body)
        harness.send(harness.event(name))
        harness.settled()
    return [(failure.reason, failure.detail) for dead_letter in harness.dead() for failure in dead_letter.failures]


def test_bytes_that_could_not_be_decoded_are_not_decoded_again(harness: Harness, decoders: Decoders) -> None:
    with harness.running():
        first, second = sent_one_after_the_other(harness, CUT, "a", "b")
    assert first == second
    assert first[0] == "broken-image"
    assert (decoders.inspected, decoders.decoded) == (1, 1)


def test_a_header_from_a_glance_is_not_inspected_again(harness: Harness, decoders: Decoders) -> None:
    with harness.running():
        harness.store.put(BUCKET, "a", encoded(ramp(40, 30), "jpeg"))
        harness.send(harness.event("a"))
        harness.settled()
    [enriched] = harness.enriched().values()
    assert (enriched.image.format, enriched.image.width, enriched.image.height) == ("jpeg", 40, 30)
    assert "inspect" not in enriched.timings_ms
    assert (decoders.inspected, decoders.decoded) == (0, 1)


def test_a_header_that_was_refused_is_not_read_again_by_another_worker_either(decoders: Decoders) -> None:
    harness = Harness()
    for name in ("a", "b"):
        with harness.running(name):
            letters = sent_one_after_the_other(harness, b"not an image", name)
    assert [reason for reason, _ in letters] == ["not-an-image"] * 2
    assert decoders.inspected == 1


def test_other_limits_decide_again(harness: Harness, decoders: Decoders) -> None:
    with harness.running():
        sent_one_after_the_other(harness, CUT, "a")
    with harness.running("other", judge="other limits"):
        sent_one_after_the_other(harness, CUT, "b")
    assert decoders.decoded == 2


@pytest.mark.parametrize(
    ("body", "reason", "looks"), [(CUT, "broken-image", (1, 1)), (b"not an image", "not-an-image", (1, 0))]
)
def test_equal_images_in_flight_share_the_rejection(
    harness: Harness, decoders: Decoders, body: bytes, reason: str, looks: tuple[int, int]
) -> None:
    """Guard: the flight begins before the header is read. Behind it each of them would pay for the same rejection."""
    gate = decoders.gate if body == CUT else decoders.header_gate
    gate.clear()
    with harness.running() as worker:
        for name in "abcde":
            harness.store.put(BUCKET, name, body)
            harness.send(harness.event(name))
        eventually(lambda: _waiting(worker) == 4)
        gate.set()
        harness.settled()
    assert [failure.reason for dead in harness.dead() for failure in dead.failures] == [reason] * 5
    assert (decoders.inspected, decoders.decoded) == looks


def test_equal_images_in_flight_keep_their_own_facts() -> None:
    tagger = ColourTagger()
    manual = ManualPipeline(tagger=tagger)
    for name in "ab":
        manual.store.put(BUCKET, name, png((9, 9, 9)))
        manual.clock.advance(60)
    manual.handle("a", "b")
    assert tagger.batches == [1]
    outcomes = [read(outcome) for (outcome,) in manual.done.values()]
    images = [outcome for outcome in outcomes if isinstance(outcome, EnrichedImage)]
    modified = {image.source.key: datetime.fromisoformat(image.source.last_modified) for image in images}
    assert modified["b"] - modified["a"] == timedelta(seconds=60)


@pytest.mark.parametrize("reason", CERTAIN)
def test_a_verdict_reads_back_unchanged(reason: str) -> None:
    found = unpack_verdict(pack_verdict(Rejected("decode", reason, "why")))  # type: ignore[arg-type]
    assert found is not None
    assert (found.stage, found.reason, found.detail) == ("decode", reason, "why")


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"[]",
        b'{"reason":"decode-timeout","detail":""}',
        b'{"reason":"forbidden","detail":""}',
        b'{"reason":["too-small"],"detail":""}',
        b'{"reason":"too-small","detail":7}',
        b'{"reason":"too-small"}',
        b'{"reason":"too-small","detail":"","more":1}',
        b'{"reason":"too-small","detail":"' + b"x" * 300 + b'"}',
        b'{"reason":"too-small","detail":"' + b"x" * 5000 + b'"}',
    ],
)
def test_a_foreign_verdict_is_a_miss(value: bytes | None) -> None:
    assert unpack_verdict(value) is None
