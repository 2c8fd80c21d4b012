"""All at once: attacks in three partitions, a transaction open in a fourth, forged outcomes, and good records."""

import json
import uuid
from dataclasses import replace
from functools import partial
from hashlib import md5
from pathlib import Path

import pytest

from tagstream_testing.local.postgresql import PostgreSQL
from tests.fixtures import Stack
from tests.hostile.reading import Reading
from tests.hostile.scene import Batch, Scene
from tests.hostile.test_hostile import forge, long_images, named
from tests.hostile.test_records import cheap_messages, corrected, open_transaction, skips, tombstones
from tests.hostile.test_shared_order import OBJECTS, etags_shown, forgeries, overwritten, refused, removed
from tests.support.raw_kafka import batch, record
from tests.support.waiting import eventually
from tests.support.worker_process import photo
from workers.backends.kafka import ensure_topics

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

STORE, DECODERS, WORDS, HELD = range(4)
"""The attacked partitions: by objects and bytes, by slow reading, by inherited data, and by an open transaction."""
OTHERS = (4, 5)
ROWS_WITHIN_S, PAGE_WITHIN_S = 10.0, 3.0
OTHERS_WITHIN_S, SAME_WITHIN_S = 10.0, 60.0
SMALL = "1GiB"
"""Little memory, so that it is soon full and near its limit."""
GRAVES = 20_000
"""More in one batch are refused by its head where memory is small."""
NOWHERE = 10**9


def attacks(scene: Scene, said: str, times: int) -> list[Batch]:
    sent = {
        STORE: [refused(scene, scene.site.name), tombstones(GRAVES), *[skips(scene)] * times],
        DECODERS: [*cheap_messages(10 * times), *long_images(scene, 10 * times)],
        WORDS: [*[corrected(scene, said)] * times, *(Batch("a forged sequencer", batch([record(value)]))
                                                     for value in forgeries(scene.site))],
    }  # fmt: skip
    return [replace(each, partition=partition) for partition, batches in sent.items() for each in batches]


@pytest.mark.parametrize("times", [1, 4])
def test_all_attacks_at_once_leave_other_partitions_their_ten_records_a_second(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr("workers.assembly.auditing.SETTLED_S", 1.0)
    said = f"said-{uuid.uuid4().hex[:8]}"
    ensure_topics(stack.kafka.servers, {said: (1, {"cleanup.policy": "delete"})})
    own = {"TAGSTREAM_MEMORY": SMALL, "TAGSTREAM_CORRECTIONS_TOPIC": said, "TAGSTREAM_REDIS_URL": stack.valkey.url}
    with Scene.started(stack, tmp_path, 6, **own) as scene:
        site = scene.site
        calm = scene.attack("none", [], 5.0, others=OTHERS, every_s=0.1)
        slow = max(1.0, calm.others_s)
        attack = partial(scene.attack, others=OTHERS, every_s=0.1, others_within_s=OTHERS_WITHIN_S)
        with open_transaction(site, HELD):
            behind = Batch("behind an open transaction", batch([record(site.own("a.jpg"))]), partition=HELD)
            held = {scene.send(behind) for _ in range(3)}
            for partition in (STORE, 7):
                forge(site, partition, NOWHERE)
            verdict = attack("together", attacks(scene, said, times), 25.0)
            assert scene.witness.unanswered(held) == held
            eventually(lambda: _told(scene) == [f"{site.images}:{HELD}"], 60, scene.worker.said)
        eventually(lambda: not scene.witness.unanswered(held), SAME_WITHIN_S * slow, scene.worker.said)
        assert verdict.goods > 100, "the machine is too slow to send ten good records a second"
        assert verdict.outcomes["forbidden"] == verdict.outcomes["unreadable"] == OBJECTS / 2
        assert verdict.outcomes["too-many-records"] > 0
        assert verdict.outcomes["too-complex"] == 9 * times
        assert verdict.outcomes["undecodable"] >= GRAVES

        for values in (overwritten(site), [removed(site)]):
            batches = [Batch("an honest event", batch([record(value)]), partition=WORDS) for value in values]
            attack("what became of it", batches)
        assert etags_shown(site) == {"a.jpg": None, "b.jpg": md5(photo(2), usedforsecurity=False).hexdigest()}
        assert scene.worker.terminate() == 0, scene.worker.said()
        assert named(site.audit()) == {
            "without-record": [f"{site.images}:{STORE}:{NOWHERE}", f"{site.images}:7:{NOWHERE}"]
        }


def test_an_indexer_a_page_and_a_retag_withstand_the_attacks_too(
    stack: Stack, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    with Scene.started(stack, tmp_path, 6, TAGSTREAM_MEMORY=SMALL) as scene:
        calm = scene.attack("none", [], 5.0, others=OTHERS, every_s=0.5)
        slow = max(1.0, calm.others_s)
        reading = Reading(scene, postgresql, tmp_path)
        with reading.running():
            hostile = [skips(scene), *cheap_messages(3)]
            with reading.attacked():
                scene.attack("together with readers", hostile, 30.0, others=OTHERS, every_s=0.5)
            assert reading.retagged, "the retag did not end"
            assert len(reading.rows_s) > 20
            assert max(reading.rows_s.values()) < ROWS_WITHIN_S * slow
            assert (reading.wrong, max(reading.page_s) < PAGE_WITHIN_S * slow) == ([], True)
            for process in (reading.indexer, reading.page):
                process.must_run()


def _told(scene: Scene) -> list[str]:
    """The subjects of the lines in /readyz; the worker is ready in spite of them."""
    status, body = scene.worker.get("/readyz")
    assert status == 200
    return [str(line).split()[0] for line in json.loads(body)["reasons"]]
