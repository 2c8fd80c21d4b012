"""Images wait for a captioner elsewhere: what they hold, what becomes of them, and that no other image waits."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from schemas.dead_letter import Failure
from schemas.enriched_image import EnrichedImage, PaidTokens
from tagstream_testing.memory import MemoryResultCache
from tests.support.harness import BUCKET, POISON, Harness, png
from tests.support.inline_intake import InlineIntake
from tests.support.manual_pipeline import ManualPipeline
from tests.support.measured import measuring
from tests.support.readers import read
from tests.support.remote import Counted, PlayedCaptioner, an_answer
from tests.support.waiting import eventually
from workers import metrics
from workers.errors import Unanswered
from workers.pipeline.activity import bound_by
from workers.pipeline.journal import Journal
from workers.types import Coordinates, Facts, Fetched, RemoteAnswer, Transform

AWAY = Unanswered("caption-unavailable", "the service does not answer")
RED, BLUE = (255, 0, 0), (0, 0, 255)


def send(manual: ManualPipeline, key: str, colour: tuple[int, int, int] = RED, partition: int = 0, **more: Any) -> None:
    manual.store.put(BUCKET, key, png(colour))
    manual.handle(key, partition=partition, **more)


def played(
    answer: RemoteAnswer | Unanswered | None = None,
    guided: bool = True,
    fields: type[BaseModel] | None = None,
    **more: Any,
) -> tuple[PlayedCaptioner, ManualPipeline]:
    captioner = PlayedCaptioner(answer, guided=guided, fields=fields)
    return captioner, ManualPipeline(remote=captioner, **more)


def enriched(manual: ManualPipeline) -> list[EnrichedImage]:
    """The outcomes, in the order of their coordinates."""
    found = [read(outcome) for _, some in sorted(manual.done.items()) for outcome in some]
    return [each for each in found if isinstance(each, EnrichedImage)]


def failures(manual: ManualPipeline) -> list[tuple[int, str, str | None]]:
    """Index, reason and want of all failures that bring dead letters."""
    outcomes = [each for _, some in sorted(manual.done.items()) for each in some]
    return [(each.index, each.reason, each.want) for each in outcomes if isinstance(each, Failure)]


def test_a_caption_from_elsewhere_stands_in_the_outcome_and_the_device_has_no_part_in_it() -> None:
    captioner, manual = played(an_answer())
    assert captioner.started
    send(manual, "a")
    (image,) = enriched(manual)
    assert image.caption is not None
    assert (image.status, image.caption.text, image.caption.method) == ("complete", "a dog", "remote")
    assert image.caption.guided_by == ("red",)
    made_by = image.models.captioner
    assert made_by is not None
    assert (made_by.name, made_by.digest, made_by.precision) == ("vlm", "9" * 64, "remote")
    assert (image.cache.caption, image.caption.model, image.missing) == ("miss", "vlm@main", None)
    assert image.caption.usage == PaidTokens(prompt=72, completion=9)
    ((shape, about),) = captioner.seen
    assert (shape, about.width, about.height) == ((12, 12, 3), 16, 16)
    (asked,) = captioner.asked
    assert (asked.tags, asked.partition.number) == (("red",), 0)
    assert list(manual.pipeline.annotate.self_tests[0].annotator.safe) == ["tags"]


def test_a_waiting_image_holds_its_jpeg_alone_and_is_no_suspect(tmp_path: Path) -> None:
    """Guard: a crash in a wait of hours would make suspects of all waiting images, and a suspect would not get in."""
    path = tmp_path / "journal"
    Journal(path).enter(Coordinates("images", 0, 1, 0))
    captioner, manual = played(journal=path)
    budget = manual.pipeline.decode.budget
    send(manual, "a")
    assert (manual.in_flight, budget.used) == ({"wait-caption": 1}, len(b"a jpeg of 24 small bytes"))
    after_a_crash = Journal(Path(shutil.copy(path, tmp_path / "copy")))
    assert after_a_crash.suspects == {Coordinates("images", 0, 1, 0)}
    send(manual, "the suspect", BLUE, options={"want": ["tags"]})
    assert list(manual.done) == [(0, 1, 0)]
    captioner.asked[0].future.set_result(an_answer())
    manual.turn()
    assert (sorted(manual.done), manual.in_flight, budget.used) == ([(0, 0, 0), (0, 1, 0)], {}, 0)


def test_a_suspect_that_waits_has_come_through(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path).enter(Coordinates("images", 0, 0, 0))
    send(ManualPipeline(remote=PlayedCaptioner(), journal=path), "a")
    assert Journal(path).suspects == frozenset()


def test_images_of_other_partitions_do_not_wait_and_those_behind_keep_their_order() -> None:
    captioner, manual = played(partitions=2)
    send(manual, "a")
    send(manual, "b", BLUE, options={"want": ["tags"]})
    send(manual, "c", (0, 255, 0), partition=1, options={"want": ["tags"]})
    assert [message.key for message in manual.messages()] == [f"{BUCKET}/c".encode()]
    captioner.asked[0].future.set_result(an_answer())
    manual.turn()
    assert {message.key for message in manual.messages()} == {f"{BUCKET}/{key}".encode() for key in "abc"}


def test_a_wait_of_hours_is_no_stall_for_its_image_and_equal_ones() -> None:
    _, manual = played(partitions=2, stall_timeout_s=60.0)
    send(manual, "a")
    send(manual, "b", partition=1)
    assert manual.in_flight == {"wait-caption": 1, "wait-equal": 1}
    manual.clock.advance(10_000)
    assert manual.worker.progress().ok
    assert bound_by(manual.pipeline.progress.counts(), 2) == "the captioner"


def test_images_without_room_behind_waiting_ones_are_no_stall() -> None:
    """Guard: JPEGs in a wait of hours fill the memory for decoding, and the worker would be restarted for it."""
    captioner = PlayedCaptioner()
    captioner.encode = lambda pixels, about: bytes(1_000)  # type: ignore[method-assign]
    manual = ManualPipeline(partitions=2, remote=captioner, stall_timeout_s=60.0, decoded_bytes=4_000)
    manual.pipeline.decode.divide(2)
    for number in range(20):
        send(manual, f"{number}", (number, 9, 9))
    assert manual.in_flight == {"wait-caption": 2, "wait-inspect": 18}
    manual.clock.advance(100)
    assert manual.worker.progress().ok
    send(manual, "another partition, and larger than all that is not kept", partition=1, options={"want": ["tags"]})
    assert list(manual.done) == [(1, 0, 0)]
    while captioner.asked:
        captioner.asked.pop().future.set_result(an_answer())
        manual.turn()
    assert (len(manual.done), manual.in_flight, manual.pipeline.decode.budget.used) == (21, {}, 0)


@pytest.mark.parametrize("word", ["unavailable", "refused", "budget", "failed"])
def test_an_unanswered_image_is_partial_and_a_failed_one_has_a_dead_letter(word: str) -> None:
    reason: Any = f"caption-{word}"
    _, manual = played(Unanswered(reason, "why"))
    send(manual, "a")
    (image,) = enriched(manual)
    assert (image.status, image.reason, image.caption) == ("partial", reason, None)
    letters = [(0, reason, "caption")] if word == "failed" else []
    assert ([tag.name for tag in image.tags], failures(manual)) == (["red"], letters)


def noting(captioner: PlayedCaptioner) -> tuple[ManualPipeline, list[Sequence[Transform] | None]]:
    """A pipeline of two partitions, and the transforms of each decode."""
    decoded: list[Sequence[Transform] | None] = []

    class Noting(InlineIntake):
        def decode(self, fetched: Fetched, facts: Facts, transforms: Sequence[Transform] | None = None) -> Any:
            decoded.append(transforms)
            return super().decode(fetched, facts, transforms)

    transforms = [Transform(8), captioner.transform]
    return ManualPipeline(2, make_intake=lambda store: Noting(store, transforms), remote=captioner), decoded


def test_of_many_images_in_hand_one_is_asked_about_when_the_service_is_found_away() -> None:
    captioner = PlayedCaptioner(AWAY)
    manual, decoded = noting(captioner)
    for pixels in (5, 1):  # those in hand have their larger pixels already
        decoded.clear()
        captioner.asked.clear()
        keys = [f"{pixels} {number}" for number in range(5)]
        for number, key in enumerate(keys):
            manual.store.put(BUCKET, key, png((number, pixels, 1)))
        manual.handle(*keys)
        assert (len(captioner.asked), decoded.count((Transform(8), captioner.transform))) == (1, pixels)
        manual.clock.advance(1)


def test_a_refusal_is_of_its_image_alone() -> None:
    captioner, manual = played(Unanswered("caption-refused", "I can't help with that"))
    for number in range(3):
        send(manual, f"{number}", (number, 9, 9))
    assert len(captioner.asked) == 3


def test_an_image_costs_nothing_while_the_service_is_away() -> None:
    """Guard: larger pixels and JPEGs would slow all images for an answer that never comes."""
    captioner = PlayedCaptioner(AWAY)
    manual, decoded = noting(captioner)
    with measuring(metrics.CAPTIONS_MISSING) as measured:
        for number in range(3):
            send(manual, f"{number}", (number, 9, 9))
        send(manual, "known tags", (0, 9, 9))
        assert measured.by("reason", metrics.CAPTIONS_MISSING) == {"caption-unavailable": 3}  # the asked one is counted
    assert decoded == [(Transform(8), captioner.transform), (Transform(8),), (Transform(8),)]
    assert (len(captioner.asked), len(captioner.seen), len(manual.done)) == (1, 1, 4)
    send(manual, "another partition", BLUE, partition=1)
    assert len(captioner.asked) == 2
    captioner.answer = an_answer()
    for tenth in range(10):
        manual.clock.advance(0.1)
        send(manual, f"no wish {tenth}", (tenth, 7, 7), partition=1, options={"want": ["tags"]})
    send(manual, "a", RED)
    send(manual, "b", (255, 0, 1), partition=1)
    assert (len(captioner.asked), enriched(manual)[4].status, enriched(manual)[-1].status) == (4, *["complete"] * 2)


def test_of_all_partitions_one_image_a_second_is_asked_about_while_the_service_is_away() -> None:
    captioner, manual = played(AWAY, partitions=4)
    for number in range(100):
        send(manual, f"{number}", (number, 9, 9), partition=number % 4)
        manual.clock.advance(0.1)
    assert 4 + 9 <= len(captioner.asked) <= 4 + 10


def test_a_second_missing_result_still_brings_its_dead_letter() -> None:
    manual = ManualPipeline(remote=PlayedCaptioner(AWAY))
    send(manual, "a", options={"want": ["tags", "caption", "faces"]})
    (image,) = enriched(manual)
    assert image.missing is not None
    missing = [(each.want, each.reason) for each in image.missing]
    assert missing == [("caption", "caption-unavailable"), ("faces", "role-not-here")]
    assert failures(manual) == [(0, "role-not-here", "faces")]


def test_equal_images_share_one_answer_and_one_failure() -> None:
    """Guard: 50 equal images would wait for WAIT_S one after the other."""
    for reason in ("caption-unavailable", "caption-failed"):
        captioner, manual = played()
        for key in ("a", "b", "c"):
            send(manual, key)
        captioner.asked[0].future.set_exception(Unanswered(reason, "why"))
        manual.turn()
        assert len(captioner.asked) == 1
        assert [image.reason for image in enriched(manual)] == [reason] * 3
    assert failures(manual) == [(0, "caption-failed", "caption")] * 3


def test_equal_images_of_one_record_fail_by_their_own_index() -> None:
    _, manual = played(Unanswered("caption-failed", "400"))
    for key in ("a", "b"):
        manual.store.put(BUCKET, key, png(RED))
    notification: Any = Harness().notification("a", "b")
    manual.send(json.dumps(notification).encode())
    manual.turn()
    assert failures(manual) == [(0, "caption-failed", "caption"), (1, "caption-failed", "caption")]


def test_an_equal_image_in_flight_or_later_gets_the_answer_and_no_bill() -> None:
    captioner, manual = played()
    for key in ("a", "b"):
        send(manual, key)
    captioner.asked[0].future.set_result(an_answer())
    manual.turn()
    send(manual, "c")
    assert len(captioner.asked) == 1
    first, *others = [image.caption for image in enriched(manual) if image.caption]
    assert [(each.text, each.usage) for each in others] == [("a dog", None)] * 2
    assert first.usage is not None
    assert enriched(manual)[2].cache.caption == "hit"


class _Watched(MemoryResultCache):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def remember(self, values: Mapping[str, bytes], fields: Mapping[tuple[str, str], bytes]) -> None:
        self.written += [key.split(":")[1] for key in values]
        super().remember(values, fields)


def test_a_late_answer_is_cached_and_nothing_else() -> None:
    captioner, cache = PlayedCaptioner(AWAY), _Watched()
    manual = ManualPipeline(remote=captioner, cache=cache)
    send(manual, "a")
    cache.written.clear()
    captioner.asked[0].late(an_answer("a late dog"))
    manual.turn()
    assert cache.written == ["caption"]
    send(manual, "b")
    partial, whole = enriched(manual)
    assert (partial.status, whole.status, len(captioner.asked)) == ("partial", "complete", 1)
    assert whole.caption is not None
    assert (whole.caption.text, whole.cache.caption) == ("a late dog", "hit")


@pytest.mark.parametrize("removed", [False, True])
def test_an_answer_after_the_removal_that_purges_is_not_cached(removed: bool) -> None:
    """Guard: nothing would ever purge it again."""
    captioner, cache = PlayedCaptioner(AWAY), _Watched()
    manual = ManualPipeline(remote=captioner, cache=cache, forget_on_remove=True)
    send(manual, "a", etag=hashlib.md5(png(RED), usedforsecurity=False).hexdigest())
    manual.commit_all()
    manual.turn()
    if removed:
        manual.remove("a")
    captioner.asked[0].late(an_answer())
    manual.turn()
    assert ("caption" in cache.written) is not removed


def test_another_captioner_or_other_tags_are_asked_again() -> None:
    captioner, manual = played(an_answer())
    send(manual, "a")
    send(manual, "b", options={"guide_tags": ["beagle"]})
    other = PlayedCaptioner(an_answer())
    other.digest = "8" * 64
    again = ManualPipeline(remote=other, cache=manual.cache)
    send(again, "c")
    assert [asked.tags for asked in captioner.asked + other.asked] == [("red",), ("beagle",), ("red",)]


def test_a_prompt_without_tags_needs_none_and_names_none() -> None:
    captioner, manual = played(an_answer(), guided=False)
    send(manual, "a", options={"want": ["caption"]})
    send(manual, "b", options={"want": ["caption"], "guide_tags": ["beagle"]})
    send(manual, "c", BLUE, options={"want": ["caption"], "guide_tags": ["beagle"]})
    first, second, _ = enriched(manual)
    assert first.caption is not None
    assert (first.caption.guided_by, second.cache.caption) == ((), "hit")
    assert ([asked.tags for asked in captioner.asked], manual.tagger.batches) == ([(), ()], [])


def test_an_image_that_lacks_its_caption_alone_goes_past_the_device() -> None:
    captioner, manual = played(AWAY)
    send(manual, "a")
    manual.clock.advance(1)
    captioner.answer = an_answer()
    with measuring(metrics.BATCHES) as measured:
        send(manual, "b")
        assert measured.total(metrics.BATCHES) is None
    assert [image.status for image in enriched(manual)] == ["partial", "complete"]


def test_an_image_without_tags_is_not_asked_about() -> None:
    """Guard: its outcome is a dead letter, and the answer would cost money for nothing."""
    captioner, manual = played(an_answer())
    send(manual, "good", BLUE, options={"want": ["tags"]})
    send(manual, "bad", POISON)
    assert (failures(manual), captioner.asked) == ([(0, "annotate-failed", "tags")], [])


@pytest.mark.parametrize("text", ["bold \x1b[1m", "half of a pair: \ud800", "x" * 70_000])
def test_an_answer_that_can_not_be_published_is_refused(text: str) -> None:
    manual = ManualPipeline(remote=PlayedCaptioner(an_answer(text)))
    send(manual, "a")
    assert [(image.status, image.reason) for image in enriched(manual)] == [("partial", "caption-refused")]


def test_fields_of_the_answer_are_a_result_of_their_own() -> None:
    captioner, manual = played(an_answer(fields={"people": 2, "place": "the beach"}), fields=Counted)
    send(manual, "a", options={"want": ["fields"]})
    send(manual, "b", options={"want": ["caption", "fields"]})
    (first, second) = enriched(manual)
    assert first.results is not None
    found = first.results["fields"]
    assert (found.value, found.model.name, found.cache) == ({"people": 2, "place": "the beach"}, "vlm", "miss")
    assert first.caption is None
    assert second.results is not None
    assert (second.results["fields"].cache, second.cache.caption, len(captioner.asked)) == ("hit", "hit", 1)


@pytest.mark.parametrize("fields", [None, {"people": "two", "place": ""}, {"people": 1 << 70, "place": "\ud800"}])
def test_an_answer_without_the_fields_lacks_them_alone(fields: Any) -> None:
    manual = ManualPipeline(remote=PlayedCaptioner(an_answer(fields=fields), fields=Counted))
    send(manual, "a", options={"want": ["caption", "fields"]})
    (image,) = enriched(manual)
    assert (image.status, image.reason, image.results) == ("partial", "caption-refused", None)
    assert image.caption is not None


def test_a_revoked_partition_asks_no_more_and_an_equal_image_of_another_one_does() -> None:
    captioner, manual = played(partitions=2)
    send(manual, "a")
    send(manual, "b", partition=1)
    manual.assignments[0].end()
    for stage in manual.pipeline.stages:
        stage.drop_ended()
    manual.turn()
    first, second = captioner.asked
    assert (first.future.cancelled(), second.partition.number) == (True, 1)
    second.future.set_result(an_answer())
    manual.turn()
    assert (list(manual.done), manual.in_flight) == ([(1, 0, 0)], {})


def test_a_partition_revoked_while_its_image_is_encoded_does_not_wait_for_hours() -> None:
    captioner, manual = played()

    def encode(pixels: object, about: object) -> bytes:
        manual.assignments[0].end()
        for stage in manual.pipeline.stages:
            stage.drop_ended()
        return b"a jpeg"

    captioner.encode = encode  # type: ignore[method-assign]
    send(manual, "a")
    assert (captioner.asked[0].future.cancelled(), manual.in_flight) == (True, {})


def test_the_captioner_says_why_the_worker_is_unready() -> None:
    captioner, manual = played()

    def reasons() -> list[str]:
        return [reason for stage in manual.pipeline.stages for reason in stage.unready()]

    assert reasons() == []
    captioner.wrong = "the captioner's key is wrong"
    assert reasons() == ["the captioner's key is wrong"]


def test_the_captioners_larger_picture_does_not_change_how_tags_are_decoded() -> None:
    """Guard: with another scale all cached tags would be computed again."""
    scales: list[Sequence[Transform]] = []

    def scale_of(transforms: tuple[Transform, ...]) -> Any:
        scales.append(transforms)
        return lambda facts: 1

    ManualPipeline(remote=PlayedCaptioner(), scale_of=scale_of)
    assert sorted(scales, key=lambda some: some[0].size) == [(Transform(8),), (PlayedCaptioner.transform,)]


def test_captions_from_elsewhere_count_for_drift() -> None:
    with measuring(metrics.CAPTIONED_IMAGES) as measured:
        manual = ManualPipeline(remote=PlayedCaptioner(an_answer("one two three four five")))
        send(manual, "a")
        manual.commit_all()
        assert measured.by("model", metrics.CAPTIONED_IMAGES, words="04") == {"vlm 999999999999": 1}


def test_a_drain_leaves_waiting_images_to_the_next_worker(tmp_path: Path) -> None:
    harness, captioner = Harness(1), PlayedCaptioner()
    harness.remote = captioner
    harness.give("a.png", RED)
    with harness.running(drain_s=0.3):
        eventually(lambda: bool(captioner.asked))
    assert (harness.coordinates(), captioner.closed) == ([], True)
    harness.remote = PlayedCaptioner(an_answer())
    harness.work()
    assert (harness.coordinates(), harness.enriched()["a.png"].status) == ([(0, 0, 0)], "complete")
