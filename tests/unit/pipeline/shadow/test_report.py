"""Reports of shadow taggers: added up over workers, and not believed."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from workers.errors import Misconfigured
from workers.pipeline.shadow.report import MAX_BYTES, ShadowReport, Side, TagCounts, known, merged, new_report, parse

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
LIVE, SHADOW = Side(name="a", digest="1" * 64, thresholds="t"), Side(name="b", digest="2" * 64, thresholds="u")


def new(worker: str = "w", hours: float = 0, live: Side = LIVE) -> ShadowReport:
    return new_report(worker, NOW + timedelta(hours=hours), live, SHADOW)


def counted(*images: tuple[str, str], worker: str = "w", hours: float = 0) -> ShadowReport:
    """A report on images with these tags of the live tagger and of the shadow; both have the labels a to f."""
    made = new(worker, hours)
    for live, shadow in images:
        made.count(set(live), set(shadow), set("abcdef"))
    return made


def test_reports_of_several_workers_add_up() -> None:
    one = counted(("ab", "b"), ("x", "y"), worker="w1", hours=1)
    two = counted(("ab", "abc"), ("xx", ""), worker="w2")
    one.dropped, two.switched_off = 3, ["it raised"]
    whole = merged([("1", one), ("2", two)])
    both = counted(("ab", "b"), ("x", "y"), ("ab", "abc"), ("xx", ""))
    assert whole.labels == both.labels
    assert whole.labels["a"] == TagCounts(both=1, live=1, shadow=0)
    assert (whole.only_live_has, whole.only_shadow_has) == ({"x": 2}, {"y": 1})
    assert (whole.compared, whole.dropped, whole.switched_off) == (4, 3, ["it raised"])
    assert (whole.jaccard, whole.mean_jaccard) == (both.jaccard, both.mean_jaccard)
    assert (whole.workers, whole.since, whole.until) == (["w1", "w2"], NOW, NOW + timedelta(hours=1))
    assert one.compared == 2, "what was given stays as it was"


def test_a_worker_counts_once() -> None:
    with pytest.raises(Misconfigured, match=r"second.json and first.json are both of the worker w"):
        merged([("first.json", new()), ("second.json", new())])


@pytest.mark.parametrize("change", [{"digest": "3" * 64}, {"thresholds": "v"}])
def test_reports_of_other_taggers_or_thresholds_do_not_add_up(change: dict[str, str]) -> None:
    other = new("w2", live=LIVE.model_copy(update=change))
    with pytest.raises(Misconfigured, match=r"second.json compares a .* with b .*, and first.json a .* with b"):
        merged([("first.json", new()), ("second.json", other)])


def test_a_report_that_was_written_reads_back(tmp_path: Path) -> None:
    made = counted(("ab", "b"), ("x", "y"), ("", ""))
    made.write(tmp_path / "new" / "w.json")
    assert known(tmp_path / "new" / "w.json") == made
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["w.json"]
    assert known(tmp_path / "none.json") is None


def document(**changes: Any) -> bytes:
    return json.dumps(json.loads(counted(("ab", "b"), ("x", "y")).model_dump_json()) | changes).encode()


BAD: dict[str, bytes] = {
    "not JSON": b"\x00",
    "deep": b"[" * 1_000_000,
    "another document": b'{"kind": "report"}',
    "a format to come": document(format="tagstream-shadow-report/2"),
    "a field to come": document(more=1),
    "a negative count": document(dropped=-1),
    "a text for a number": document(dropped="1"),
    "a number beyond bounds": document(dropped=2**60),
    "no number": document().replace(b'"jaccard_sum": 1.5', b'"jaccard_sum": NaN'),
    "more agreement than images": document(jaccard_sum=2.5),
    "bins that do not add up": document(jaccard=[9] * 11),
    "too few bins": document(jaccard=[]),
    "a label of more images than there are": document(labels={"a": {"both": 1, "live": 1, "shadow": 1}}),
    "a lost label of more images than there are": document(only_live_has={"a": 3}),
    "too many labels": document(labels=dict.fromkeys(map(str, range(100_001)), 0)),
    "too many fields": document(**dict.fromkeys(map(str, range(33)), 0)),
    "labels that are none": document(labels={"a": {"both": "1"}}),
    "no labels": document(labels=[]),
    "no worker": document(workers=[]),
    "a long name": document(workers=["w" * 1_001]),
    "a time without its zone": document(since="2026-11-26T12:00:00"),
}


def test_the_document_that_the_bad_ones_are_made_of_is_good() -> None:
    assert parse(document()).compared == 2
    assert b'"jaccard_sum": 1.5' in document()
    assert len(document()) < MAX_BYTES


def test_a_document_of_faults_is_given_up_at_the_first() -> None:
    """Guard: `_tag_counts`; pydantic notes each fault, in a hundred times the memory of the document."""
    bad = document(labels={str(number): {"both": "1"} for number in range(20_000)})
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"labels: .*both"):
        parse(bad)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * len(bad)


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_report_is_refused_in_one_line(kind: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]{5,500}$"):
        parse(BAD[kind])
