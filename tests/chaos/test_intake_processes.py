"""Images that bring their decoder down, in the middle of a load: each costs itself and no other."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.account import Account
from tests.chaos.broken_codec import FOLDER, png_that
from tests.chaos.shared_worker import Given, SharedWorker
from tests.fixtures import Stack
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

CLOCK_S = 4
_seeds = itertools.count(20_000)


@pytest.fixture(scope="module")
def decoders(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedWorker]:
    """A worker with two children and a faulty PNG decoder, shared by all tests of this file."""
    with SharedWorker.started(
        stack,
        tmp_path_factory.mktemp("decoders"),
        PYTHONPATH=str(FOLDER),
        TAGSTREAM_DECODE_THREADS="2",
        decode_timeout_s=str(CLOCK_S),
        decode_memory="256MiB",
    ) as shared:
        yield shared


def upload_sound(site: Site, count: int) -> list[str]:
    keys = [f"sound-{next(_seeds)}.jpg" for _ in range(count)]
    for key in keys:
        site.upload(key, photo(int(key[6:-4])))
    return keys


def lost_decoders(process: WorkerProcess, cause: str) -> float:
    return process.metric("tagstream_decoders_lost_total", cause=cause)


@dataclass(frozen=True)
class Deed:
    """An image's effect on its decoder, the number of lost children, and its dead letter's detail; None: success."""

    does: str
    cause: str = ""
    costs: int = 0
    reason: str | None = None
    in_header: bool = False
    once: bool = False

    def image(self, folder: Path) -> bytes:
        return png_that(self.does, folder.name if self.once else "", in_header=self.in_header)


@pytest.mark.parametrize(
    "deed",
    [
        pytest.param(Deed("hangs", "clock", 2, "decode-timeout"), id="hangs"),
        pytest.param(Deed("hangs", "clock", 2, "decode-timeout", in_header=True), id="hangs in its header"),
        pytest.param(Deed("segfaults", "death", 2, "kills-decoder"), id="crashes"),
        pytest.param(Deed("aborts", "death", 2, "kills-decoder", in_header=True), id="crashes in its header"),
        pytest.param(Deed("grows", reason="decode-memory"), id="grows"),
        pytest.param(Deed("aborts-without-memory", "death", 2, "kills-decoder"), id="grows in a codec that aborts"),
        pytest.param(Deed("breaks-out", "bad-answer", 2, "kills-decoder"), id="takes its decoder over"),
        pytest.param(Deed("breaks-out", "bad-answer", 2, "kills-decoder", in_header=True), id="does so in its header"),
        pytest.param(Deed("hangs", "clock", 1, once=True), id="is slow once"),
        pytest.param(Deed("dies", "death", 1, once=True), id="decoder killed externally"),
    ],
)
def test_an_image_that(decoders: SharedWorker, account: Account, tmp_path: Path, deed: Deed) -> None:
    """Guards: the clock of a decoder, or a hanging one is never replaced; RLIMIT_AS, or one may take the machine's
    memory; the sandbox, or a hijacked one has the worker's rights; the second try, or an operator's kill costs a valid
    image; the supervisor's list of requests, or a dead child's images are lost."""
    process, site = decoders.worker, decoders.site
    eventually(lambda: len(process.decoders()) == 2, 30, process.said)
    lost, before = lost_decoders(process, deed.cause), set(process.decoders())
    refused = partial(process.metric, "tagstream_dead_letters_total", reason=str(deed.reason))
    refused_before = refused()
    sound = upload_sound(site, 60)
    site.upload("deed.png", deed.image(tmp_path))
    given: list[Given] = [(site.own(key), ()) for key in [*sound[:20], "deed.png", *sound[20:]]]
    records = decoders.send(given)
    eventually(lambda: lost_decoders(process, deed.cause) == lost + deed.costs, 60, process.said)
    if deed.reason is not None:
        eventually(lambda: refused() > refused_before, 60, process.said)
    account.landed()
    account.over()
    eventually(lambda: len(process.decoders()) == 2, 10, process.said)
    account.recovered()
    assert len(before - set(process.decoders())) >= min(1, deed.costs)
    found = decoders.settle(account, records, letters=deed.reason is not None)
    assert found.reasons == [deed.reason] * (deed.reason is not None)
    assert found.keys == sorted(sound if deed.reason else [*sound, "deed.png"])


def test_others_are_decoded_while_an_image_hangs(decoders: SharedWorker, account: Account) -> None:
    """Guard: a child with a hanging decoder gets no new image; otherwise its images wait for its end."""
    process, site = decoders.worker, decoders.site
    lost = lost_decoders(process, "clock")
    site.upload("hangs.png", png_that("hangs"))
    sound = upload_sound(site, 40)
    records = decoders.send([(site.own("hangs.png"), ())], b"a partition of its own")
    eventually(lambda: process.metric("tagstream_images_in_flight", stage="decode") == 1, 10, process.said)
    account.landed()
    stuck = records[0][0]
    records += decoders.send([(site.own(key), ()) for key in sound])
    others = [place for place in records if place[0] != stuck]
    eventually(lambda: set(others) <= set(site.outcomes()), 2 * CLOCK_S, process.said)
    assert lost_decoders(process, "clock") <= lost + 1, "the image was given up before the others were done"
    account.over()
    account.recovered()
    assert decoders.settle(account, records, letters=1).reasons == ["decode-timeout"]
