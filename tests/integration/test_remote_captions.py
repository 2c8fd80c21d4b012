"""Captions of a service on real servers, from an event to its completion by retag."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tagstream_remote.client import MAX_TOKENS

from remote.tests.stub import BEHAVIOURS, MODEL, Asked, Reply, StubService, caption_of
from tests.support.captioned import FIELDS, KEY, missing, newest, pictures, request_again, send, settings_of
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo, worker

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]

SEED = 518_000


@pytest.fixture
def service() -> Iterator[StubService]:
    with StubService(key=KEY) as stub:
        yield stub


def upload(site: Site, *keys: str, first: int) -> None:
    for number, key in enumerate(keys):
        site.upload(key, photo(SEED + first + number))


def answered(site: Site, process: WorkerProcess) -> None:
    eventually(lambda: site.behind() == 0 or not process.running, 90, process.said)
    assert process.running, process.said()


def test_an_event_has_the_answer_with_its_model_and_its_cost_and_a_copy_is_free(
    site: Site, service: StubService, tmp_path: Path
) -> None:
    settings = settings_of(service, tmp_path, prompt="A photo of {tags}. Describe it.", fields=FIELDS)
    upload(site, "first", first=0)
    upload(site, "copy", "plain", first=0)
    service.always("revision")
    with worker(site, "w", tmp_path, **settings) as process:
        send(site, ["first"], want=("tags", "caption", "fields"))
        answered(site, process)
        paid = len(service.asked)
        send(site, ["copy"], want=("tags", "caption", "fields"))
        send(site, ["plain"], want=("tags",))
        answered(site, process)
        assert process.terminate() == 0, process.said()
    assert len(service.asked) == paid
    assert "HTTP Request" not in process.said()
    found = newest(site)
    first, copy = found["first"], found["copy"]
    assert first.caption
    assert copy.caption
    assert first.results
    assert copy.results
    assert first.models.captioner
    assert (first.status, first.caption.method, first.caption.model) == ("complete", "remote", f"{MODEL}@main")
    assert (first.models.captioner.name, first.models.captioner.precision) == (MODEL, "remote")
    assert first.caption.text == caption_of(service.asked[-1].jpeg)
    assert first.caption.guided_by == tuple(tag.name for tag in first.tags)
    assert ", ".join(first.caption.guided_by) in service.asked[-1].text
    assert first.caption.usage is not None
    assert copy.caption.usage is None
    assert copy.caption.text == first.caption.text
    assert copy.results["fields"].value == first.results["fields"].value == {"indoors": "yes", "people": 1}
    assert (first.cache.caption, copy.cache.caption, copy.results["fields"].cache) == ("miss", "hit", "hit")
    assert found["plain"].caption is None
    assert site.audit(**settings).proved


def test_images_of_other_partitions_do_not_wait_and_waiting_is_no_stall(
    site: Site, service: StubService, tmp_path: Path
) -> None:
    settings = settings_of(service, tmp_path, wait_s=600)
    plain = [f"plain-{number}" for number in range(20)]
    upload(site, "asked", *plain, first=10)
    goes_on = threading.Event()

    def held(asked: Asked) -> Reply:
        goes_on.wait(100)
        return BEHAVIOURS["ok"](asked)

    with worker(site, "w", tmp_path, stall_timeout_s="3", **settings) as process:
        eventually(lambda: process.get("/readyz")[0] == 200, 60, process.said)
        service.always(held)
        before = len(service.asked)
        send(site, ["asked"], partition=0)
        eventually(lambda: len(service.asked) > before, 60, process.said)
        send(site, plain, partition=1, want=["tags"])
        eventually(lambda: newest(site).keys() == set(plain), 60, process.said)
        time.sleep(8)  # longer than a stall may last
        assert process.get("/livez")[0] == 200, process.said()
        goes_on.set()
        answered(site, process)
        assert process.terminate() == 0, process.said()
    caption = newest(site)["asked"].caption
    assert caption is not None
    assert caption.method == "remote"


def test_a_worker_whose_images_wait_ends_by_sigterm_and_the_next_one_asks(
    site: Site, service: StubService, tmp_path: Path
) -> None:
    settings = settings_of(service, tmp_path, wait_s=600) | {"TAGSTREAM_DRAIN_S": "2"}
    keys = [f"{number}" for number in range(12)]
    upload(site, *keys, first=130)
    service.always("hang")
    with worker(site, "w", tmp_path, **settings) as process:
        send(site, keys)
        eventually(lambda: service.asked, 60, process.said)
        assert process.terminate() == 0, process.said()
    assert site.outcomes() == []
    service.always("ok")
    with worker(site, "w", tmp_path, **settings) as process:
        answered(site, process)
        assert process.terminate() == 0, process.said()
    assert {each.status for each in newest(site).values()} == {"complete"}
    assert site.outcomes() == site.inputs()


def test_what_an_outage_left_out_is_completed_by_retag_and_a_late_answer_is_free(
    site: Site, service: StubService, tmp_path: Path
) -> None:
    settings = settings_of(service, tmp_path, wait_s=3)
    upload(site, "good", "late", "down", "plain", first=40)
    with worker(site, "w", tmp_path, **settings) as process:
        send(site, ["good"])
        answered(site, process)
        before = len(service.asked)
        service.delay_s = 6
        send(site, ["late"])
        answered(site, process)
        eventually(lambda: len(service.asked) > before and not service.at_once, 60, process.said)
        service.down()
        send(site, ["down"])
        send(site, ["plain"], want=["tags"])
        answered(site, process)
    found = newest(site)
    for key in ("late", "down"):
        assert (found[key].status, missing(found[key])) == ("partial", [("caption", "caption-unavailable")])
        assert found[key].caption is None
    assert site.letters() == []
    assert site.audit(**settings).proved
    service.delay_s = 0
    service.up()
    assert request_again(site, settings, tmp_path, "caption-unavailable") == 2
    late = list(pictures(service))[-1]
    with worker(site, "w", tmp_path, **settings | {"TAGSTREAM_CAPTION_WAIT_S": "60"}) as process:
        eventually(lambda: {each.status for each in newest(site).values()} == {"complete"}, 60, process.said)
        assert process.terminate() == 0, process.said()
    after = newest(site)
    assert all(after[key].tags == each.tags for key, each in found.items())
    assert pictures(service)[late] == 1, "it was paid for twice"
    assert site.audit(**settings).proved
    assert request_again(site, settings, tmp_path, "caption-unavailable") == 0


def test_a_wrong_key_makes_the_worker_unready_until_its_file_is_right(
    site: Site, service: StubService, tmp_path: Path
) -> None:
    settings = settings_of(service, tmp_path, wait_s=600)
    upload(site, "refused", "asked", first=50)
    with worker(site, "w", tmp_path, **settings) as process:
        service.key = "MARKED-other-key"  # the worker is ready already
        send(site, ["refused"])
        answered(site, process)
        eventually(lambda: "TAGSTREAM_CAPTION_KEY" in process.said(), 60, process.said)
        assert process.get("/readyz")[0] == 503
        (tmp_path / "key").write_text(service.key)
        process.wait_ready()
        send(site, ["asked"])
        answered(site, process)
        assert "MARKED" not in process.said()
        assert process.terminate() == 0, process.said()
    found = newest(site)
    assert missing(found["refused"]) == [("caption", "caption-unavailable")]
    assert found["asked"].status == "complete"
    assert len(service.asked) < 10, "each costs money or gets the key locked"


def test_workers_share_the_days_tokens_and_images_beyond_them_are_partial(
    site: Site, service: StubService, tmp_path: Path
) -> None:
    keys, limit = [f"{number}" for number in range(40)], 40_000
    upload(site, *keys, first=60)
    service.always("no-usage")  # counts as reserved
    settings = settings_of(service, tmp_path, wait_s=60, tokens=limit)
    with worker(site, "w1", tmp_path, **settings) as one, worker(site, "w2", tmp_path, **settings):
        send(site, keys)
        answered(site, one)
    found = newest(site)
    whole = [key for key, each in found.items() if each.status == "complete"]
    assert 0 < len(whole) < len(keys)
    assert {tuple(missing(found[key])) for key in found.keys() - whole} == {(("caption", "caption-budget"),)}
    assert len(service.asked) * MAX_TOKENS < limit
    assert (site.letters(), site.audit(**settings).proved) == ([], True)


def test_a_hostile_service_costs_no_image_and_little_memory(site: Site, service: StubService, tmp_path: Path) -> None:
    settings = settings_of(service, tmp_path, wait_s=5, fields=FIELDS)
    kinds = ["huge", "drip", "drip-headers", "hang", "deep", "gzip", "control", "markup", "long", "reset", "400"]
    kinds += ["redirect"]  # last: for a while no image is asked about after it
    upload(site, "ok", *kinds, first=110)
    with worker(site, "w", tmp_path, **settings) as process:
        send(site, ["ok"], want=("tags", "caption", "fields"))
        answered(site, process)
        held = process.peak_memory()
        for kind in kinds:  # one by one: two at once would share the script by chance
            service.script(kind)
            send(site, [kind], want=("tags", "caption", "fields"))
            answered(site, process)
        assert process.peak_memory() - held < 64 << 20
        assert process.terminate() == 0, process.said()
    found = newest(site)
    assert found.keys() == {"ok", *kinds}
    assert all(each.caption is None or each.caption.text.isprintable() for each in found.values())
    (letter,) = site.letters()
    assert {(each.want, each.reason) for each in letter.failures} == {
        ("caption", "caption-failed"),
        ("fields", "caption-failed"),
    }
    assert set(site.outcomes()) == set(site.inputs())
    assert site.audit(**settings).proved
