"""A tagger beside the live one: it sees some images, says nothing in any event, and only ever ends itself."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.harness import BUCKET, ColourTagger, Harness, png
from tests.support.manual_pipeline import ManualPipeline
from tests.support.waiting import eventually
from workers import metrics
from workers.backends.clock import SystemClock
from workers.errors import Broken, Misconfigured
from workers.pipeline.profiles import default_profiles, make_profile
from workers.pipeline.shadow.comparison import require_comparable
from workers.pipeline.shadow.report import ShadowReport, parse
from workers.pipeline.shadow.shadow import BUSY_SHARE, LOAD_S, MOST_WAITING, Shadow, chosen
from workers.ports import Clock, Tagger
from workers.types import Coordinates, Pixels, Subset, Transform

LIMIT_S = 60.0
RED, GREEN = (200, 0, 0), (0, 200, 0)


class Other(ColourTagger):
    """The live tagger's colours under other thresholds, one label of its own and one that it lacks."""

    name = "other"
    digest = "d" * 64
    labels: Sequence[str] = ("red", "green", "violet")
    thresholds: Sequence[float] = (0.9, 0.5, 0.01)
    says: Callable[[Sequence[Pixels]], Any] | None = None
    """In the place of an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.warm = 0

    def warm_up(self) -> None:
        self.warm += 1

    def forward(self, images: Sequence[Pixels]) -> Sequence[Any]:
        found: Sequence[Any] = super().forward(images) if self.says is None else self.says(images)
        return found


@pytest.fixture
def other() -> Other:
    return Other()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What the metrics are told."""
    counts: Counter[str] = Counter()
    monkeypatch.setattr(metrics.SHADOW_IMAGES, "add", lambda *_, result: counts.update([result]))
    monkeypatch.setattr(metrics.SHADOW_TAGS, "add", lambda number, by: counts.update({by: number}))
    monkeypatch.setattr(metrics.SHADOW_JACCARD, "record", lambda value: counts.update({"jaccard": value}))
    return counts


def make(
    other: Tagger, live: Tagger, clock: Clock, folder: Path, share: float = 1.0, limit_s: float = LIMIT_S
) -> Shadow:
    return Shadow(
        lambda: (other, default_profiles(other)["default"]),
        live,
        default_profiles(live)["default"],
        clock,
        share=share,
        report=folder / "w.json",
        worker="w",
        limit_s=limit_s,
    )


@pytest.fixture
def manual(other: Other, tmp_path: Path, told: Counter[str]) -> ManualPipeline:
    return begun(other, tmp_path)


def begun(other: Tagger, folder: Path, **more: Any) -> ManualPipeline:
    made = ManualPipeline(make_shadow=lambda manual: make(other, manual.tagger, manual.clock, folder), **more)
    assert made.shadow is not None
    made.shadow.begin()
    return made


def shadow(manual: ManualPipeline) -> Shadow:
    assert manual.shadow is not None
    return manual.shadow


def come(manual: ManualPipeline, *colours: tuple[int, int, int], **more: Any) -> None:
    """An image of each colour is annotated, and its outcome is complete."""
    for colour in colours:
        key = "-".join(map(str, colour))
        manual.store.put(BUCKET, key, png(colour))
        manual.events(key, **more)
    manual.turn()


def many(count: int) -> list[tuple[int, int, int]]:
    return [(200, number, 0) for number in range(count)]


def report(folder: Path) -> ShadowReport:
    return parse((folder / "w.json").read_bytes())


def test_an_image_is_chosen_by_its_content_and_by_a_larger_share_too() -> None:
    hashes = [hashlib.sha256(bytes([number, 1])).hexdigest() for number in range(256)] * 2
    of_a_tenth = [chosen(each, 0.1) for each in hashes]
    assert of_a_tenth[:256] == of_a_tenth[256:]
    assert 10 < sum(of_a_tenth[:256]) < 45
    assert all(chosen(each, 0.2) for each, was in zip(hashes, of_a_tenth, strict=True) if was)
    assert all(chosen(each, 1.0) for each in [*hashes, "f" * 64])
    assert not any(chosen(each, 1e-9) for each in hashes)


def test_only_its_share_is_shown_to_it(other: Other, tmp_path: Path) -> None:
    manual = ManualPipeline(
        make_shadow=lambda manual: make(other, manual.tagger, manual.clock, tmp_path, share=0.5),
    )
    come(manual, *many(12))
    assert 0 < len(shadow(manual)._waiting) + shadow(manual)._dropped < 12


def test_what_both_say_is_counted_by_the_names_of_their_labels(
    manual: ManualPipeline, told: Counter[str], tmp_path: Path
) -> None:
    """The third label of the shadow is violet, that of the live tagger blue: neither counts for an agreement."""
    come(manual, (200, 0, 0), (250, 250, 0), (0, 0, 200), (0, 0, 0))
    for _ in range(4):
        shadow(manual).step(0)
    shadow(manual).close()
    found = report(tmp_path)
    assert (found.compared, found.dropped, found.switched_off) == (4, 0, [])
    assert {name: each.model_dump() for name, each in found.labels.items()} == {
        "red": {"both": 1, "live": 1, "shadow": 0},
        "green": {"both": 1, "live": 0, "shadow": 0},
    }
    assert (found.only_live_has, found.only_shadow_has) == ({"blue": 1}, {"violet": 1})
    assert found.jaccard == [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3], "where neither says anything they agree"
    assert found.mean_jaccard == 0.75
    assert told == {"compared": 4, "both": 2, "live": 1, "shadow": 0, "jaccard": 3.0}


def test_its_answers_are_in_no_event_and_in_no_entry_of_the_cache(other: Other, tmp_path: Path) -> None:
    with_one, without = begun(other, tmp_path), ManualPipeline()
    for manual in (with_one, without):
        come(manual, RED, GREEN)
        if manual.shadow:
            manual.shadow.step(0)
            manual.shadow.step(0)
            assert manual.shadow._report is not None
            assert manual.shadow._report.compared == 2
    assert with_one.done.keys() == without.done.keys()
    assert [message.value for message in with_one.messages()] == [message.value for message in without.messages()]
    assert with_one.cache._values == without.cache._values  # type: ignore[attr-defined]
    assert with_one.cache._values, "nothing was cached"  # type: ignore[attr-defined]


def test_what_the_live_tagger_did_not_score_whole_is_not_compared(manual: ManualPipeline, other: Other) -> None:
    subset = Subset((0,))
    profile = make_profile("few", (0.5, 1, 1), subset)
    manual.worker._options.profiles["few"] = profile  # type: ignore[index]
    come(manual, RED, options={"profile": "few"})
    assert not shadow(manual)._waiting
    come(manual, GREEN, options={"profile": "paper"})
    assert len(shadow(manual)._waiting) == 1


def test_an_image_under_suspicion_is_not_shown_to_it(manual: ManualPipeline) -> None:
    manual.worker._journal.suspects |= {Coordinates("images", 0, 0, 0)}
    come(manual, RED, GREEN)
    assert len(manual.done) == 2
    assert len(shadow(manual)._waiting) == 1


def test_what_the_cache_knows_is_not_compared_again(manual: ManualPipeline, told: Counter[str]) -> None:
    come(manual, RED)
    shadow(manual).step(0)
    come(manual, RED)
    shadow(manual).step(0)
    assert told["compared"] == 1


def test_more_images_than_may_wait_are_dropped_and_counted(
    manual: ManualPipeline, told: Counter[str], tmp_path: Path
) -> None:
    come(manual, *many(MOST_WAITING + 3))
    assert told["dropped"] == 3
    shadow(manual).step(0)
    come(manual, (1, 2, 3))
    assert told["dropped"] == 3, "one has gone"
    shadow(manual).close()
    assert report(tmp_path).dropped == 3 + MOST_WAITING, "what waited at the end too"


def test_large_images_are_bounded_in_bytes(
    manual: ManualPipeline, told: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.pipeline.shadow.shadow._MOST_BYTES", 2 * 8 * 8 * 3)
    come(manual, *many(5))
    assert (len(shadow(manual)._waiting), told["dropped"]) == (2, 3)


def test_beside_other_work_it_takes_a_small_part_of_the_time(
    manual: ManualPipeline, other: Other, told: Counter[str]
) -> None:
    def slow(images: Sequence[Pixels]) -> Any:
        manual.clock.advance(2)
        return [np.zeros(3)]

    other.says = slow
    come(manual, *many(3))
    busy = True
    shadow(manual).attend(forbidden=lambda: False, idle=lambda: not busy)
    shadow(manual).step(0)
    manual.clock.advance(2 / BUSY_SHARE - 2 - 0.1)
    shadow(manual).step(0)
    assert told["compared"] == 1, "it has had 2 s of the last 40"
    manual.clock.advance(0.2)
    shadow(manual).step(0)
    assert told["compared"] == 2
    busy = False
    shadow(manual).step(0)
    assert told["compared"] == 3, "nothing else is to be done"


def test_it_is_idle_when_no_image_is_in_hand(manual: ManualPipeline) -> None:
    come(manual, RED)
    assert shadow(manual)._idle()
    manual.put("a.png")
    manual.events("a.png")
    manual.pipeline.parse.work()
    assert not shadow(manual)._idle()


def test_it_never_works_beside_an_image_under_suspicion(manual: ManualPipeline, told: Counter[str]) -> None:
    """Guard: `forbidden`; a shadow that kills the process would have its death counted against that image."""
    come(manual, RED)
    manual.worker._journal.suspects |= {Coordinates("images", 0, 9, 0)}
    shadow(manual).step(0)
    assert told["compared"] == 0
    manual.worker._journal.suspects = frozenset()
    shadow(manual).step(0)
    assert told["compared"] == 1


def raising(error: BaseException) -> Callable[[Sequence[Pixels]], Any]:
    def says(_: Sequence[Pixels]) -> Any:
        raise error

    return says


BAD: dict[str, tuple[Callable[[Sequence[Pixels]], Any], str]] = {
    "raises": (raising(RuntimeError("no\x1b[31m such layer")), "RuntimeError: no\ufffd[31m such layer"),
    "broken": (raising(Broken("the device is gone")), "the device is gone"),
    "memory": (raising(MemoryError()), "MemoryError"),
    "ends its thread": (raising(SystemExit()), "SystemExit"),
    "none": (lambda _: None, "NoneType"),
    "two": (lambda _: [np.zeros(3), np.zeros(3)], "was given 1 images and returned 2 answers"),
    "nan": (lambda _: [np.full(3, np.nan)], "not a number"),
    "shape": (lambda _: [np.zeros((2, 3)) + 0.5], ""),
    "range": (lambda _: [np.full(3, 7.0)], "scores from 7.0 to 7.0"),
    "labels": (lambda _: [np.full(5, 0.5)], "do not ascend between 0 and 2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD)
def test_one_that_fails_switches_itself_off_with_one_warning_and_nothing_else_changes(
    kind: str, other: Other, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harness = Harness()
    harness.shadow = make(other, harness.tagger, SystemClock(), tmp_path)
    other.says, says = BAD[kind]
    with harness.running():
        for number, colour in enumerate(many(6)):
            harness.put(f"{number}.png", colour)
            harness.send(harness.event(f"{number}.png"), number % 2)
        harness.settled()
        eventually(lambda: harness.shadow is not None and harness.shadow.off is not None)
        harness.put("later.png", GREEN)
        harness.send(harness.event("later.png"))
        harness.settled()
    assert harness.coordinates() == sorted((partition, offset, 0) for partition, offset in harness.appended)
    assert {key: [tag.name for tag in image.tags] for key, image in harness.enriched().items()} == {
        **{f"{number}.png": ["red"] for number in range(6)},
        "later.png": ["green"],
    }
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    [warning] = warnings
    assert warning.startswith("the shadow tagger is switched off until the next start")
    assert says in warning
    assert harness.shadow.works() == [(0.0, {})]
    found = report(tmp_path)
    assert found.compared == 0
    assert len(found.switched_off) == 1
    assert says in found.switched_off[0]
    assert not (tmp_path / "w.json.at-work").exists(), "it only raised: the next start tries again"


@pytest.mark.slow  # a second: the watching thread looks no more often
def test_one_that_hangs_is_left_behind_and_the_live_line_goes_on(
    other: Other, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harness = Harness()
    harness.shadow = made = make(other, harness.tagger, SystemClock(), tmp_path, limit_s=0.2)
    release = threading.Event()

    def hang(_: Sequence[Pixels]) -> Any:
        release.wait(30)
        return [np.zeros(3)]

    other.says = hang
    try:
        with harness.running():
            for number in range(4):
                harness.put(f"{number}.png", RED)
                harness.send(harness.event(f"{number}.png"))
            harness.settled()
            eventually(lambda: made.off is not None)
            harness.put("later.png", GREEN)
            harness.send(harness.event("later.png"))
            harness.settled()
    finally:
        release.set()
    assert made.off == "it did not come back within 0.2 s"
    assert len(harness.enriched()) == 5
    assert report(tmp_path).switched_off == [made.off]
    assert caplog.text.count("switched off") == 1
    made._thread.join(10)
    assert report(tmp_path).compared == 0, "what it says after all is not counted"


def test_one_that_is_slow_keeps_no_image_waiting(other: Other, tmp_path: Path) -> None:
    """Guard: the thread of its own; on the device's, 40 images would take 40 times as long as it does."""
    harness = Harness()
    harness.shadow = made = make(other, harness.tagger, SystemClock(), tmp_path)
    release = threading.Event()

    def slow(images: Sequence[Pixels]) -> Any:
        release.wait(20)
        return [np.zeros(3) for _ in images]

    other.says = slow
    with harness.running():
        for number, colour in enumerate(many(40)):
            harness.put(f"{number}.png", colour)
            harness.send(harness.event(f"{number}.png"))
        harness.settled(timeout_s=15)
        assert len(harness.enriched()) == 40
        release.set()
        eventually(lambda: made._report is not None and made._report.compared > 0)
    found = report(tmp_path)
    assert found.switched_off == []
    assert found.compared + found.dropped == 40
    assert found.dropped > 0


def test_live_models_that_run_out_of_memory_get_the_shadows(
    manual: ManualPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    manual.tagger.memory = 2
    come(manual, *many(4))
    assert shadow(manual).off == "a live model ran out of memory"
    assert shadow(manual)._comparison is None
    assert len(manual.done) == 4
    come(manual, GREEN)
    assert not shadow(manual)._waiting, "nothing is kept for one that is off"
    shadow(manual).give_way("another reason")
    assert shadow(manual).off == "a live model ran out of memory"
    assert caplog.text.count("switched off") == 1


@pytest.mark.parametrize("failures", [1, 2])
def test_live_models_that_do_not_start_beside_it_start_without_it(
    failures: int, other: Other, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = Harness()
    harness.shadow = made = make(other, harness.tagger, SystemClock(), tmp_path)
    tried: list[str | None] = []

    def warm_up() -> None:
        tried.append(made.off)
        if len(tried) <= failures:
            raise Broken("The device has no memory for a single image")

    monkeypatch.setattr(harness.tagger, "warm_up", warm_up)
    off = "the live models do not start beside it: The device has no memory for a single image"
    if failures == 1:
        with harness.running():
            eventually(lambda: len(tried) == 2)
    else:
        with pytest.raises(Broken, match="no memory for a single image"):
            harness.run_to_its_end()
    assert tried == [None, off]


def test_it_is_warmed_up_for_single_images_before_the_group_is_joined(other: Other, tmp_path: Path) -> None:
    made = make(other, ColourTagger(), SystemClock(), tmp_path)
    made.start(lambda: False)
    assert (other.warm, other.max_batch, made.off) == (1, 1, None)
    made.close()
    assert (tmp_path / "w.json").exists()


def test_one_that_fails_at_its_start_is_off_and_the_worker_works(
    other: Other, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise Broken("it does not give its golden answers")

    monkeypatch.setattr(other, "warm_up", fail)
    harness = Harness()
    harness.shadow = make(other, harness.tagger, SystemClock(), tmp_path)
    harness.put("a.png", RED)
    with harness.running():
        harness.send(harness.event("a.png"))
        harness.settled()
    assert harness.shadow.off == "Broken: it does not give its golden answers"
    assert len(harness.enriched()) == 1


def test_a_start_that_takes_too_long_is_not_waited_for(
    other: Other, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(other, "warm_up", lambda: release.wait(30))
    monkeypatch.setattr("workers.pipeline.shadow.shadow.LOAD_S", 0.1)
    made = make(other, ColourTagger(), SystemClock(), tmp_path)
    try:
        made.start(lambda: False)
        assert made.off == "it did not come back within 0.1 s"
    finally:
        release.set()
        made.close()
    assert LOAD_S > LIMIT_S


def test_a_start_that_is_stopped_does_not_wait(other: Other, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(other, "warm_up", lambda: release.wait(30))
    made = make(other, ColourTagger(), SystemClock(), tmp_path)
    made.start(lambda: True)
    assert not made._warm.is_set()
    release.set()
    made.close()


class Large(Other):
    transform = Transform(16, "crop", 20)


class Foreign(Other):
    labels: Sequence[str] = ("a", "b", "c")


def test_one_that_can_not_be_compared_is_refused_in_a_sentence() -> None:
    with pytest.raises(Misconfigured, match=r"other takes images as size 16, fit crop.*colours as size 8, fit squash"):
        require_comparable(ColourTagger(), Large())
    with pytest.raises(Misconfigured, match="has no label of the live tagger colours"):
        require_comparable(ColourTagger(), Foreign())


def test_one_that_turns_out_to_be_another_than_was_checked_is_not_warmed_up(tmp_path: Path) -> None:
    large = Large()
    made = make(large, ColourTagger(), SystemClock(), tmp_path)
    made.start(lambda: False)
    made.close()
    assert made.off is not None
    assert "other takes images as size 16" in made.off
    assert large.warm == 0


def test_a_report_is_gone_on_with_by_the_next_process_while_the_taggers_are_the_same(
    other: Other, tmp_path: Path
) -> None:
    for expected in (1, 2):
        manual = begun(other, tmp_path)
        come(manual, RED)
        shadow(manual).step(0)
        shadow(manual).close()
        assert report(tmp_path).compared == expected
    others = report(tmp_path).model_copy(update={"workers": ["another"]})
    others.write(tmp_path / "w.json")
    shadow(begun(other, tmp_path)).close()
    assert report(tmp_path).compared == 0, "it is another worker's"
    others.model_copy(update={"workers": ["w"]}).write(tmp_path / "w.json")
    other.thresholds = (0.1, 0.1, 0.1)
    shadow(begun(other, tmp_path)).close()
    assert report(tmp_path).compared == 0


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b"\xff", b'{"format": "tagstream-shadow-report/1"}'])
def test_a_report_that_is_damaged_is_begun_anew(content: bytes, other: Other, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_bytes(content)
    shadow(begun(other, tmp_path)).close()
    assert report(tmp_path).compared == 0


def test_it_stays_off_where_a_process_died_while_it_was_at_work(other: Other, tmp_path: Path) -> None:
    """Guard: the file; without it a shadow that kills its process does so at every start."""
    manual = begun(other, tmp_path)
    found: list[bool] = []

    def look(_: Sequence[Pixels]) -> Any:
        found.append((tmp_path / "w.json.at-work").exists())
        return [np.zeros(3)]

    other.says = look
    come(manual, RED)
    shadow(manual).step(0)
    shadow(manual).close()
    assert found == [True]
    assert not (tmp_path / "w.json.at-work").exists()
    (tmp_path / "w.json.at-work").touch()
    made = make(other, ColourTagger(), SystemClock(), tmp_path)
    made.start(lambda: False)
    made.close()
    assert made.off is not None
    assert "a process died while it was at work" in made.off
    assert other.warm == 1
    assert len(report(tmp_path).switched_off) == 1, "the report of the process that died says so"


def test_a_call_that_is_merely_slow_at_the_end_does_not_keep_the_next_process_from_trying(
    other: Other, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.pipeline.shadow.shadow._CLOSE_S", 0.05)
    release, working = threading.Event(), threading.Event()

    def slow(_: Sequence[Pixels]) -> Any:
        working.set()
        release.wait(30)
        return [np.zeros(3)]

    other.says = slow
    manual = ManualPipeline(make_shadow=lambda manual: make(other, manual.tagger, SystemClock(), tmp_path))
    shadow(manual).start(lambda: False)
    come(manual, RED)
    assert working.wait(10)
    assert (tmp_path / "w.json.at-work").exists()
    shadow(manual).close()
    assert [file.name for file in tmp_path.iterdir()] == ["w.json"]
    release.set()
    shadow(manual)._thread.join(10)


def test_a_report_that_can_not_be_written_ends_the_trial(
    other: Other, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manual = begun(other, tmp_path)
    (tmp_path / "w.json").mkdir()
    come(manual, RED, GREEN)
    shadow(manual).step(0)
    assert "can't be written: Is a directory" in caplog.text
    assert shadow(manual).off is not None
    assert len(manual.done) == 2


def test_the_report_is_written_every_minute(manual: ManualPipeline, tmp_path: Path) -> None:
    shadow(manual).step(0)
    come(manual, RED)
    manual.clock.advance(59)
    shadow(manual).step(0)
    assert report(tmp_path).compared == 0
    manual.clock.advance(1)
    shadow(manual).step(0)
    assert report(tmp_path).compared == 1
    assert json.loads((tmp_path / "w.json").read_bytes())["until"] == "2027-01-15T08:01:00Z"
