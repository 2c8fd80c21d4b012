"""What captions from a service cost all other images: while it hangs, and while it is away.

Latency: a worker in memory tags photos of one partition, which come one by one, while those of another wait for a
service that does not answer. Throughput: the same photos with and without a wish for captions, while nothing listens at
the service's address.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from tagstream_remote.captioner import remote_captioner

from benchmarks.line import DECODERS, photo, running_worker, stored
from benchmarks.turns import BACKLOG, show, waits
from remote.tests.stub import MODEL, StubService
from tagstream_testing.memory import MemoryResultCache
from workers.intake import Limits, ProcessIntake
from workers.models.load import load_tagger
from workers.pipeline.roles import Roles, make_roles
from workers.ports import Tagger
from workers.settings import Settings

IMAGES = 240
ROUNDS = 5
WAYS = (("no service", "tags"), ("away, tags wanted", "tags"), ("away, captions wanted", "caption"))


def main() -> None:
    tagger = load_tagger("compact", device="cpu", precision="fp32")
    tagger.warm_up()
    _latency(tagger)
    _throughput(tagger)


@contextmanager
def _with_service(tagger: Tagger, service: StubService) -> Iterator[Roles]:
    settings = Settings(captioner=service.address, caption_model=MODEL, caption_wait_s=600)
    captioner = remote_captioner(settings)
    try:
        yield make_roles({"tagger": tagger}, remote=captioner)
    finally:
        captioner.close()


def _latency(tagger: Tagger) -> None:
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(ROUNDS):
        waited = waits(tagger, make_roles({"tagger": tagger}), 0, "tags")
        found.setdefault("alone", []).append((statistics.median(waited), max(waited)))
        waited = waits(tagger, make_roles({"tagger": tagger}), BACKLOG, "tags")
        found.setdefault("beside images without captions", []).append((statistics.median(waited), max(waited)))
        with StubService() as service, _with_service(tagger, service) as roles:
            service.always("hang")
            waited = waits(tagger, roles, BACKLOG, "caption")
        found.setdefault("beside images that wait", []).append((statistics.median(waited), max(waited)))
    show("a service that hangs", found)


def _throughput(tagger: Tagger) -> None:
    images = [photo(seed) for seed in range(IMAGES)]
    found: dict[str, list[float]] = {name: [] for name, _ in WAYS}
    for _ in range(ROUNDS):
        for name, want in WAYS:
            found[name].append(_processor_s(tagger, images, want, away=name != "no service"))
    table = Table("a service that is away", "processor time an image, ms (median)", "to none, round by round")
    for name, times in found.items():
        ratios = sorted(each / none for each, none in zip(times, found["no service"], strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        table.add_row(name, f"{1000 * statistics.median(times):.1f}", spread)
    Console().print(table)


def _processor_s(tagger: Tagger, images: list[bytes], want: str, *, away: bool) -> float:
    """Processor time of an image, decoders included: on a busy machine it says more than a rate."""
    service = StubService()
    with service:
        """It takes a port, and leaves it again."""
    with _with_service(tagger, service) as asking:
        roles = asking if away else make_roles({"tagger": tagger})
        transforms = [tagger.transform, *(role.model.transform for role in roles.waiting)]
        intake = ProcessIntake(stored(images), transforms, Limits(), children=DECODERS)
        before = os.times()
        with running_worker(tagger, images, intake, MemoryResultCache(), roles) as rate:
            rate(want=sorted({"tags", want}))
        return sum(after - began for after, began in zip(os.times()[:4], before[:4], strict=True)) / len(images)
