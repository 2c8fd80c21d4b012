"""The whole line on in-memory dependencies: every record gets exactly one outcome set, in order."""

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TypeVar

import pytest

from schemas.enriched_image import EnrichedImage, read_output
from tagstream_testing.memory_broker import Fault
from tagstream_testing.memory_kafka import MemoryRecordSource
from tests.support.harness import BUCKET, GROUP, OUT, Harness, running
from tests.support.waiting import eventually
from workers.errors import Broken, Misconfigured, Unavailable
from workers.pipeline import worker as pipeline_worker
from workers.ports import Publisher, RecordSource
from workers.types import Polled

RED, BLUE = (255, 0, 0), (0, 0, 255)
Client = TypeVar("Client", RecordSource, Publisher)


def test_an_event_becomes_an_enriched_image_with_tags_and_a_caption(harness: Harness) -> None:
    etag = harness.put("a.png", RED)
    offset = harness.send(harness.event("a.png"), key=b"mine")
    harness.work()
    [record] = harness.broker.visible(OUT)
    image = harness.enriched()["a.png"]
    assert [(tag.name, tag.score, tag.label_id) for tag in image.tags] == [("red", 1.0, 0)]
    assert image.caption is not None
    assert (image.caption.text, image.caption.method, image.caption.guided_by) == ("red", "template", ("red",))
    assert image.status == "complete"
    assert (image.source.etag, image.image.format, image.image.width) == (etag, "png", 16)
    assert (image.event.topic, image.event.partition, image.event.offset, image.event.index) == ("images", 0, offset, 0)
    assert record.key == b"photos/a.png"
    assert ("tagstream-input-key", b"mine") in record.headers


def test_every_record_has_its_outcomes_once_and_in_the_order_of_its_partition() -> None:
    harness = Harness(partitions=3)
    for number in range(60):
        harness.give(f"{number}.png", (number, 0, 255 - number), partition=number % 3)
    harness.work()
    assert harness.coordinates() == sorted((p, o, 0) for p, o in harness.appended)
    # One object's outputs share an output partition; within it the outputs of one input partition keep their order.
    for output in range(3):
        events = [read_output(r.value or b"").event for r in harness.broker.visible(OUT) if r.partition == output]
        for number in range(3):
            offsets = [event.offset for event in events if event.partition == number]
            assert offsets == sorted(offsets)


def test_one_message_of_many_records_is_committed_with_all_its_outcomes(harness: Harness) -> None:
    harness.put("a.png", RED)
    harness.store.put(BUCKET, "b.png", b"not an image at all")
    harness.send(harness.notification("a.png", "b.png", "missing.png"))
    harness.work()
    assert harness.coordinates() == [(0, 0, 0), (0, 0, 1), (0, 0, 2)]
    assert [(f.index, f.reason) for dead_letter in harness.dead() for f in dead_letter.failures] == [
        (1, "not-an-image")
    ]
    assert [(skip.event.index, skip.reason) for skip in harness.skips()] == [(2, "gone")]


def test_keys_that_the_store_refuses_make_a_worker_unready_until_it_accepts_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline_worker, "_ASK_AGAIN_S", 0.05)
    harness, line = Harness(), "correct the secret"
    refusals, accepts = iter([line, None, line]), threading.Event()  # once it is away
    harness.refused_keys = lambda: "" if accepts.is_set() else next(refusals, line)
    with caplog.at_level("INFO"), harness.running() as worker:
        eventually(lambda: worker.unready() == line)
        eventually(lambda: next(refusals, None) is None)
        assert worker.unready() == line
        accepts.set()
        eventually(lambda: worker.ready)
    told = [record for record in caplog.records if "our keys" in record.getMessage()]
    assert [record.levelname for record in told] == ["WARNING", "INFO"], "once, then a count"
    assert line in told[0].getMessage()


def test_a_store_that_is_away_at_the_start_leaves_a_worker_ready(harness: Harness) -> None:
    harness.refused_keys = lambda: None
    with harness.running() as worker:
        eventually(lambda: worker.ready)


def test_a_hit_on_the_first_level_skips_the_store_and_a_copy_skips_the_device(harness: Harness) -> None:
    etag = harness.put("a.png", RED)
    harness.put("copy.png", RED)
    harness.send(harness.event("a.png", etag=etag))
    with harness.running():
        harness.settled()
        eventually(lambda: harness.cache.lookup_fields([("2:source:/photos/a.png", f"e:{etag}")]) != [None])
        harness.store.fail(BUCKET, "a.png", Unavailable("s3", "not to be asked"))
        harness.send(harness.event("a.png", etag=etag))
        harness.send(harness.event("copy.png"))
        harness.settled()
    assert harness.tagger.batches == [1]
    images = [item for item in harness.outputs() if isinstance(item, EnrichedImage)]
    again = next(i for i in images if i.source.key == "a.png" and i.event.offset == 1)
    copy = next(i for i in images if i.source.key == "copy.png")
    assert (again.cache.source, again.cache.tags) == ("hit", "hit")
    assert (copy.cache.source, copy.cache.tags) == (None, "hit")
    assert again.tags == copy.tags


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda harness: vars(harness.tagger).update(broken=True), "known to be good"),
        (lambda harness: vars(harness.tagger).update(nan=True), "known to be good"),
        (lambda harness: harness.broker.fail_next(Fault.FENCED, Fault.FENCED), "transactional id"),
        (lambda harness: harness.store.fail(BUCKET, "a.png", KeyError("a bug")), "a bug"),
    ],
    ids=["broken", "nan", "the transactional id is taken again and again", "a bug in a thread"],
)
def test_what_no_image_is_to_blame_for_stops_the_worker_with_the_topic_untouched(
    harness: Harness, fault: Callable[[Harness], None], said: str
) -> None:
    harness.give("a.png", RED)
    fault(harness)
    with pytest.raises((Broken, KeyError), match=said):
        harness.run_to_its_end()
    assert harness.coordinates() == []


def work_with_faults(harness: Harness, faults: Mapping[int, Fault]) -> None:
    """Twenty images, one after the other; the transaction after these meets a fault."""
    with harness.running():
        for number in range(20):
            if number in faults:
                harness.broker.fail_next(faults[number])
            harness.give(f"{number}.png", (number, 0, 200), partition=number % 2)
            threading.Event().wait(0.01)
        harness.settled()


@pytest.mark.slow
@pytest.mark.parametrize("fault", list(Fault))
def test_whatever_happens_to_a_run_its_outcomes_are_there_once(harness: Harness, fault: Fault) -> None:
    work_with_faults(harness, {3: fault} if fault is Fault.FENCED else {3: fault, 11: fault})
    assert harness.coordinates() == sorted((p, o, 0) for p, o in harness.appended)


def test_at_least_once_loses_nothing_and_repeats_have_the_same_id(harness: Harness) -> None:
    harness.delivery = "at_least_once"
    work_with_faults(harness, {3: Fault.COMMIT_UNACKNOWLEDGED, 11: Fault.COMMIT_LOST})
    assert sorted(set(harness.coordinates())) == sorted((p, o, 0) for p, o in harness.appended)
    ids: dict[tuple[int, int], set[str]] = {}
    for image in harness.outputs():
        assert isinstance(image, EnrichedImage)
        ids.setdefault((image.event.partition, image.event.offset), set()).add(image.id)
    assert all(len(found) == 1 for found in ids.values())


@pytest.mark.slow
def test_a_publisher_that_hangs_although_the_broker_answers_ends_the_worker(harness: Harness) -> None:
    harness.publisher_hangs = "the commit has not returned for 9 s"
    with pytest.raises(Broken, match="has not returned"):
        harness.run_to_its_end()


def test_two_workers_that_pass_partitions_to_and_fro_lose_nothing_and_do_nothing_twice() -> None:
    harness = Harness(partitions=4)
    stop = threading.Event()

    def storm() -> None:
        while not stop.wait(0.05):
            harness.broker.rebalance(GROUP)

    with harness.running("w1"), ExitStack() as second:
        thread = threading.Thread(target=storm, daemon=True)
        thread.start()
        for number in range(80):
            harness.give(f"{number}.png", (number, 0, 200), partition=number % 4)
            if number == 30:
                second.enter_context(running(harness.worker("w2")))
            if number == 60:
                second.close()
            threading.Event().wait(0.005)
        stop.set()
        thread.join()
        harness.settled()
    assert harness.coordinates() == sorted((p, o, 0) for p, o in harness.appended)


@pytest.mark.slow
def test_a_hanging_poll_is_reported_and_a_stop_still_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guard: the drain's end was the poll thread's to say, and no thread looked at the poll thread."""
    monkeypatch.setattr(pipeline_worker, "_POLL_S", 0.2)
    monkeypatch.setattr(pipeline_worker, "_LATE_S", 0.2)
    harness, hung, released = Harness(), threading.Event(), threading.Event()
    poll = MemoryRecordSource.poll

    def hanging(source: MemoryRecordSource, timeout_s: float) -> Polled:
        if hung.is_set():
            released.wait()
        return poll(source, timeout_s)

    monkeypatch.setattr(MemoryRecordSource, "poll", hanging)
    with ExitStack() as stack:
        stack.callback(released.set)
        stack.enter_context(
            pytest.raises(Broken, match=r"the drain's 0\.3 s have passed, and the poll thread has not come")
        )
        worker = stack.enter_context(harness.running(drain_s=0.3, stall_timeout_s=0.1))
        eventually(lambda: worker.ready)
        assert worker.progress().ok
        hung.set()
        eventually(lambda: not worker.progress().ok)
        (reason,) = worker.progress().reasons
        assert reason.startswith("the poll thread has not come back for ")


def test_a_stop_drains_admitted_records_and_leaves_no_thread(harness: Harness) -> None:
    for number in range(30):
        harness.give(f"{number}.png", (number, 0, 200), partition=number % 2)
    before = threading.active_count()
    with harness.running() as worker:
        eventually(lambda: worker.ready)
        eventually(lambda: len(harness.outputs()) > 0)
    done = harness.coordinates()
    assert len(done) == len(set(done))
    committed = {p.number: o for p, o in harness.broker.committed(GROUP).items()}
    assert done == sorted((p, o, 0) for p in committed for o in range(committed[p]))
    eventually(lambda: threading.active_count() <= before)


@pytest.mark.parametrize("lowered_s", [0, 10])
def test_images_larger_than_a_limit_become_dead_letters_also_where_it_is_lowered_at_run_time(lowered_s: int) -> None:
    harness = Harness()
    harness.put("a.png", RED)
    if not lowered_s:
        harness.broker.create_topic(OUT, 3, max_message_bytes=700)
    with harness.running() as worker:
        eventually(lambda: worker.ready)
        harness.broker.create_topic(OUT, 3, max_message_bytes=700)
        harness.send(harness.event("a.png"))
        harness.settled()
    assert harness.enriched() == {}
    assert harness.failures() == [("publish", "result-too-large")]


def test_a_worker_with_nothing_to_do_is_idle_and_alive(harness: Harness) -> None:
    with harness.running() as worker:
        eventually(lambda: worker.ready)
        eventually(lambda: worker.idle_s() > 0.05)
        assert worker.progress().ok


def test_a_worker_is_ready_only_once_it_has_joined_the_group(harness: Harness) -> None:
    harness.broker.away = True
    with harness.running() as worker:
        eventually(lambda: worker.warm and worker.unready() == "joining the group")
        assert not worker.ready
        harness.broker.away = False
        eventually(lambda: worker.ready)


class Connecting:
    """The clients of a harness' worker are made when the test says so; knows whether each was closed."""

    def __init__(self, harness: Harness) -> None:
        self.begun, self.may_be_made = threading.Event(), threading.Event()
        self.made: list[str] = []
        self.closed: list[str] = []
        harness.wrap_source = lambda make: lambda: self._source(make)
        harness.wrap_publisher = lambda make: lambda source: self._watched("publisher", make(source))

    def _source(self, make: Callable[[], RecordSource]) -> RecordSource:
        self.begun.set()
        assert self.may_be_made.wait(30)
        self.source = make()
        return self._watched("source", self.source)

    def _watched(self, name: str, made: Client) -> Client:
        self.made.append(name)
        close = made.close

        def closed() -> None:
            close()
            self.closed.append(name)

        made.close = closed  # type: ignore[method-assign]
        return made


def test_a_broker_is_reached_while_the_models_warm_up_and_the_group_joined_afterwards(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting = Connecting(harness)
    worker = harness.worker()
    connecting.may_be_made.set()
    joined: list[bool] = []

    def warm_up() -> None:
        eventually(lambda: connecting.made == ["source", "publisher"])
        joined.append(connecting.source.joined())

    monkeypatch.setattr(harness.tagger, "warm_up", warm_up)
    with running(worker):
        eventually(lambda: worker.ready)
    assert joined == [False]
    assert connecting.closed == ["publisher", "source"]


def test_a_device_that_does_not_start_ends_the_worker_at_once_also_one_that_waits_for_a_broker(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guard: to wait for the connection first would hide a broken device for as long as the broker is away."""
    connecting = Connecting(harness)
    worker = harness.worker()

    def warm_up() -> None:
        assert connecting.begun.wait(30)
        raise Broken("the device is gone")

    monkeypatch.setattr(harness.tagger, "warm_up", warm_up)
    with pytest.raises(Broken, match="the device is gone"):
        worker.run()
    assert connecting.made == []
    connecting.may_be_made.set()  # the broker is back, and finds that it is not needed
    eventually(lambda: connecting.closed == ["publisher", "source"])


def test_a_broker_that_refuses_us_ends_the_worker_once_its_models_are_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness()
    connecting = Connecting(harness)
    worker = harness.worker()
    connecting.may_be_made.set()
    refused, warm = threading.Event(), threading.Event()

    def refuse(source: RecordSource) -> Publisher:
        refused.set()
        raise Misconfigured("the topic 'out' does not exist")

    def warm_up() -> None:
        assert refused.wait(30)
        warm.set()

    worker.publisher = refuse
    monkeypatch.setattr(harness.tagger, "warm_up", warm_up)
    with pytest.raises(Misconfigured, match="the topic 'out' does not exist"):
        worker.run()
    assert warm.is_set()
    assert connecting.closed == ["source"]
