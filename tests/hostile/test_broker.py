"""A broker that lies in its frames: whatever is answered, each record has its outcome once when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tagstream_testing.local.scratch import Scratch
from tagstream_testing.local.seaweedfs import SeaweedFS
from tagstream_testing.local.valkey import Valkey
from tests.fixtures import Stack, up_or_skip
from tests.hostile.broker_liar import LyingBroker
from tests.hostile.scene import POD_BYTES
from tests.hostile.witness import Place, Witness
from tests.support.raw_kafka import batch, produce, record
from tests.support.worker_process import Site, WorkerProcess, photo
from workers.cli.exit_codes import BROKEN

pytestmark = pytest.mark.timeout(400)

CALLS = 8
"""Kinds of Kafka calls that are lied about at least, however slowly a worker comes to make them."""


@pytest.fixture
def liar(scratch: Scratch) -> Iterator[LyingBroker]:
    yield from up_or_skip(LyingBroker(scratch.path / "lying-kafka"))


@pytest.mark.parametrize("least_s", [3, pytest.param(40, marks=pytest.mark.chaos)])
def test_a_broker_lies_in_its_frames(
    least_s: float, liar: LyingBroker, s3: SeaweedFS, valkey: Valkey, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """It may end a worker, which is then started again, as an orchestrator would; with 3, never with a bug's code."""
    site = Site(Stack(liar, s3, valkey), unique("lied-to"))
    settings = {"TAGSTREAM_KAFKA_SERVERS": liar.proxied, "TAGSTREAM_REDIS_URL": ""}
    sent: set[Place] = set()
    ends = []

    def send(number: int) -> None:
        site.upload(f"{number}.jpg", photo(number, 48))
        partition = number % 4
        error, offset = produce(liar.servers, site.images, partition, batch([record(site.own(f"{number}.jpg"))]))
        assert error == 0
        sent.add((partition, offset))

    with Witness(site, ()) as witness:
        process = WorkerProcess(site, "w", tmp_path, **settings)
        try:
            process.wait_ready()
            liar.liar.lying = True
            peak, until, number = 0, time.monotonic() + least_s, 0
            while time.monotonic() < until or (liar.liar.calls_lied_about < CALLS and time.monotonic() < until + 90):
                send(number)
                number += 1
                time.sleep(0.25)
                if not process.running:
                    ends.append((process.exit_code, process.said()[-2000:]))
                    process = WorkerProcess(site, "w", tmp_path, **settings)
                else:
                    with suppress(ValueError, FileNotFoundError):  # it has just ended
                        peak = max(peak, process.peak_memory())
            liar.liar.lying = False
            truth_at = time.monotonic()
            while witness.unanswered(sent) and time.monotonic() < truth_at + 90:
                if not process.running:
                    ends.append((process.exit_code, process.said()[-2000:]))
                    process = WorkerProcess(site, "w", tmp_path, **settings)
                time.sleep(0.5)
            assert not witness.unanswered(sent), f"{witness.unanswered(sent)}\n{process.said()[-4000:]}"
            took_s = time.monotonic() - truth_at
        finally:
            process.kill()
    answers = {place: witness.answer(place) for place in sent}
    assert all(answer is not None and answer.kinds == ["enriched"] for answer in answers.values()), answers
    assert [code for code, _ in ends] == [BROKEN] * len(ends), "\n".join(f"{code}: {said}" for code, said in ends)
    assert peak < POD_BYTES
    assert took_s < 60, f"{took_s:.0f} s after the last lie"
    assert liar.liar.calls_lied_about >= CALLS, liar.liar.told
