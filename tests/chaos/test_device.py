"""The device or its model fails: a failing image pays alone, and a broken device never empties the topic."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.enriched_image import EnrichedImage
from tests.chaos.account import Account
from tests.chaos.scenes import assert_inherited
from tests.chaos.shared_worker import is_committed
from tests.chaos.unruly import Unruly, image_of
from tests.chaos.unruly_model import CURSED, DEADLY, SPEECHLESS, UNCOUNTABLE
from tests.support.broker import lag
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, worker

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

SOUND = (200, 40, 40)
GIVES_UP_WITHIN_S = 15.0
HANG_ENDS_WITHIN_S = 25.0
"""The device's clock of 15 s, the watchdog's patience, and some room."""


@pytest.fixture
def unruly(tmp_path: Path) -> Unruly:
    return Unruly(tmp_path / "package")


def load(site: Site, records: int, first: int = 0) -> None:
    numbers = range(first, first + records)
    for number in numbers:
        site.upload(f"{number}.png", image_of(SOUND, number))
    site.send([(site.own(f"{number}.png"), ()) for number in numbers])


def safe_batch(process: WorkerProcess) -> float:
    return process.metric("tagstream_safe_batch")


def assert_untouched(site: Site, records: int) -> None:
    assert site.outcomes() == []
    behind = lag(site.stack.kafka.servers, site.name, [site.images])
    assert sum(number or 0 for number in behind.values()) == records


def assert_gives_up(
    site: Site, unruly: Unruly, account: Account, folder: Path, why: str, *, lands: str = "fails", **settings: str
) -> str:
    """A worker ends with 3 within 15 s of the first failing batch (`lands` in the model's diary), and says why."""
    process = WorkerProcess(site, "w", folder, **settings)
    try:
        eventually(lambda: bool(unruly.diary(lands)), 60, process.said)
        account.landed()
        assert process.wait_gone(60) == 3, process.said()
        ended = time.monotonic()
    finally:
        process.kill()
    assert ended - unruly.diary(lands)[0]["at"] < GIVES_UP_WITHIN_S
    assert why in " ".join(process.said().split())
    assert "Traceback" not in process.said()
    return process.said()


def test_memory_that_runs_out_above_a_batch_size(
    steady_site: Site, unruly: Unruly, account: Account, tmp_path: Path
) -> None:
    """Guards: the halving, or images are blamed; the safe size after it, or each batch fails again; its growth, or one
    failure slows the worker for ever."""
    unruly.order(memory=3, slow_s=0.03)
    load(steady_site, 100)
    with worker(steady_site, "w", tmp_path, **unruly.settings()) as process:
        eventually(lambda: bool(unruly.diary("out of memory")), 30, process.said)
        account.landed()
        eventually(lambda: is_committed(steady_site), 60, process.said)
        assert 1 <= safe_batch(process) <= 3
        assert len(unruly.diary("out of memory")) <= 3, "more than one batch was too large"
        assert process.metric("tagstream_batch_failures_total", cause="memory") == len(unruly.diary("out of memory"))
        unruly.order(slow_s=0.03)
        account.over()
        load(steady_site, 1_000, first=100)
        eventually(lambda: safe_batch(process) == 8, 30, process.said)
        account.recovered()
        eventually(lambda: is_committed(steady_site), 60, process.said)
        assert max(entry["images"] for entry in unruly.diary("runs")) == 8
        assert process.terminate() == 0, process.said()
    account.assert_site(steady_site)


@contextmanager
def worker_within_a_batch(
    site: Site, unruly: Unruly, folder: Path, role: str, colour: tuple[int, int, int]
) -> Iterator[WorkerProcess]:
    """A worker whose model takes 1.5 s a batch; the failing image arrives, among others, while it is at work."""
    slow: dict[str, Any] = {"slow_s": 1.5}
    unruly.order(**(slow if role == "tagger" else {role: slow}))
    site.upload("failing.png", image_of(colour))
    others = [f"{number}.png" for number in range(12, 24)]
    for number, key in enumerate(others, 12):
        site.upload(key, image_of(SOUND, number))
    load(site, 12)
    with worker(site, "w", folder, **unruly.settings(captions=role == "captioner")) as process:
        eventually(lambda: bool(unruly.diary("runs", role)), 60, process.said)
        site.send([(site.own(key), ()) for key in ("failing.png", *others)])
        yield process


@pytest.mark.parametrize(
    "colour", [pytest.param(CURSED, id="raise"), pytest.param(UNCOUNTABLE, id="give scores that are no numbers")]
)
def test_an_image_in_the_middle_of_a_batch_that_makes_the_tagger(
    steady_site: Site, unruly: Unruly, account: Account, tmp_path: Path, colour: tuple[int, int, int]
) -> None:
    """Guards: halving to the failing image (raise) and its second try alone (invalid numbers)."""
    with worker_within_a_batch(steady_site, unruly, tmp_path, "tagger", colour) as process:
        eventually(lambda: is_committed(steady_site), 60, process.said)
        if colour == CURSED:
            assert max(entry["images"] for entry in unruly.diary("raises")) > 1, "it was never among others"
        else:
            assert max(entry["images"] for entry in unruly.diary("runs")) > 1
        account.landed()
        assert process.terminate() == 0, process.said()
    account.assert_site(steady_site, letters=1)
    [dead_letter] = steady_site.letters()
    assert [(failure.stage, failure.reason) for failure in dead_letter.failures] == [("annotate", "annotate-failed")]
    images = [image for image in steady_site.outputs() if isinstance(image, EnrichedImage)]
    assert {image.source.key for image in images} == {f"{number}.png" for number in range(24)}


def test_an_image_in_the_middle_of_a_batch_that_makes_the_captioner_raise(
    steady_site: Site, unruly: Unruly, account: Account, tmp_path: Path
) -> None:
    """Guard: halving to the failing image. Its tags are published as `partial`, and a dead letter tells of its
    caption."""
    with worker_within_a_batch(steady_site, unruly, tmp_path, "captioner", SPEECHLESS) as process:
        eventually(lambda: is_committed(steady_site), 60, process.said)
        assert max(entry["images"] for entry in unruly.diary("raises", "captioner")) > 1, "it was never among others"
        account.landed()
        assert process.terminate() == 0, process.said()
    images = [image for image in steady_site.outputs() if isinstance(image, EnrichedImage)]
    where = [(image.event.partition, image.event.offset, image.event.index) for image in images]
    account.settle(steady_site.inputs(), where, len(steady_site.letters()), 1)
    steady_site.assert_in_order()
    steady_site.assert_within_budgets()
    [partial] = [image for image in images if image.status != "complete"]
    assert (partial.source.key, partial.status, partial.reason) == ("failing.png", "partial", "caption-failed")
    assert partial.tags
    assert partial.caption is None
    assert all(image.caption is not None for image in images if image is not partial)
    [dead_letter] = steady_site.letters()
    assert [(failure.stage, failure.reason) for failure in dead_letter.failures] == [("caption", "caption-failed")]


NOT_GOOD = "the device fails on an image that is known to be good"
NO_NUMBER = "unruly: not a number among 4 scores"


@pytest.mark.parametrize(
    ("orders", "settings", "lands", "why"),
    [
        pytest.param({"broken": True}, {"TAGSTREAM_MAX_BATCH": "8"}, "fails", [NOT_GOOD], id="fails at batches of 8"),
        pytest.param({"broken": True}, {"TAGSTREAM_MAX_BATCH": "1"}, "fails", [NOT_GOOD], id="fails at batches of 1"),
        pytest.param({"not_a_number": True}, {}, "runs", [NO_NUMBER], id="gives no numbers"),
        pytest.param({"not_a_number": True, "captioner": {}}, {}, "runs", [NO_NUMBER], id="gives none, captions"),
        pytest.param(
            {"lies": 2}, {"self_test_s": "0.000001"}, "lies", ["its self-test twice in a row"], id="lies for several"
        ),
        pytest.param({"loses_one": True}, {}, "runs", ["the model unruly", "returned"], id="loses an answer"),
        pytest.param(
            {"misshapen": True},
            {},
            "runs",
            ["the model unruly", "with scores of the shape (3,)"],
            id="has fewer scores",
        ),
        pytest.param(
            {"captioner": {"loses_one": True}}, {}, "runs", ["the model unruly", "returned"], id="loses a caption"
        ),
    ],
)
def test_a_device_that_on_each_batch(
    steady_site: Site,
    unruly: Unruly,
    account: Account,
    tmp_path: Path,
    orders: dict[str, Any],
    settings: dict[str, str],
    lands: str,
    why: list[str],
) -> None:
    """Guards: the self-test image before any blame, and its place in a batch (lies: alone it is right). Scores are
    checked, the self-test's too: with a captioner by the device thread, without one by the finish thread. Answers are
    counted and measured on arrival (`answers.py`); else an image gets another's scores."""
    unruly.order(**orders)
    load(steady_site, 60)
    settings = unruly.settings(captions="captioner" in orders) | settings
    said = assert_gives_up(steady_site, unruly, account, tmp_path, why[0], lands=lands, **settings)
    assert why[-1] in " ".join(said.split())
    assert_untouched(steady_site, 60)
    unruly.order()
    assert_inherited(steady_site, account, tmp_path, settings)


def test_a_device_that_breaks_midway(steady_site: Site, unruly: Unruly, account: Account, tmp_path: Path) -> None:
    """Guard: the self-test, whatever went well before; without it what follows is dead-lettered up to the ceiling."""
    unruly.order(good=30, slow_s=0.1)
    load(steady_site, 120)
    assert_gives_up(
        steady_site,
        unruly,
        account,
        tmp_path,
        "the device fails on an image that is known to be good",
        **unruly.settings(),
    )
    assert 0 < len(steady_site.outcomes()) <= 30, "it broke too early or too late to prove anything"
    assert steady_site.letters() == []
    unruly.order()
    assert_inherited(steady_site, account, tmp_path, unruly.settings())


def test_a_device_that_begins_to_answer_wrongly_while_idle(
    steady_site: Site, unruly: Unruly, account: Account, tmp_path: Path
) -> None:
    """Guard: the self-test while the worker runs; without it the next images are published with wrong scores, which
    are numbers like any others."""
    settings = unruly.settings() | {"self_test_s": "0.001"}
    load(steady_site, 20)
    with worker(steady_site, "w", tmp_path, **settings) as process:
        eventually(lambda: is_committed(steady_site), 60, process.said)
        assert process.metric("tagstream_self_tests_total", result="right") > 0
        unruly.order(lies=1)
        assert process.wait_gone(60) == 3, process.said()
        account.landed()
        assert "unruly does not give its right answer" in " ".join(process.said().split())
        assert "Traceback" not in process.said()
    unruly.order()
    load(steady_site, 20, first=20)
    assert_inherited(steady_site, account, tmp_path, settings)


def test_a_hang_in_forward(steady_site: Site, unruly: Unruly, account: Account, tmp_path: Path) -> None:
    """Guard: the device's clock of 15 s; without it only the clocks of `stall_timeout_s` see that nothing
    moves."""
    unruly.order(hangs=True)
    load(steady_site, 20)
    with worker(steady_site, "w", tmp_path, **unruly.settings()) as process:
        eventually(lambda: bool(unruly.diary("hangs")), 30, process.said)
        account.landed()
        eventually(lambda: process.get("/livez")[0] == 503, 20, process.said)
        assert process.wait_gone(20) == 3, process.said()
        assert time.monotonic() - unruly.diary("hangs")[0]["at"] < HANG_ENDS_WITHIN_S
        assert "stalled: the device has worked on one batch for" in process.said()
        assert 'unruly_model.py\\", line' in process.said(), "the stack of the device thread is missing"
    assert_untouched(steady_site, 20)
    unruly.order()
    assert_inherited(steady_site, account, tmp_path, unruly.settings())


def test_an_image_that_kills_the_process(steady_site: Site, unruly: Unruly, account: Account, tmp_path: Path) -> None:
    """Guard: the journal, or the image kills the worker for ever; its two deaths alone, or others pay."""
    unruly.order(slow_s=0.5)
    steady_site.upload("kills.png", image_of(DEADLY))
    load(steady_site, 12)
    steady_site.send([(steady_site.own("kills.png"), ())])
    load(steady_site, 12, first=12)
    for alone in (False, True, True):
        process = WorkerProcess(steady_site, "w", tmp_path, **unruly.settings())
        try:
            assert process.wait_gone(90) == -signal.SIGABRT, process.said()
        finally:
            process.kill()
        assert (unruly.diary("dies")[-1]["images"] == 1) is alone
    account.landed()
    with worker(steady_site, "w", tmp_path, **unruly.settings()) as process:
        eventually(lambda: is_committed(steady_site), 60, process.said)
        assert process.terminate() == 0, process.said()
    account.assert_site(steady_site, letters=1)
    assert [failure.reason for dead_letter in steady_site.letters() for failure in dead_letter.failures] == [
        "kills-worker"
    ]
