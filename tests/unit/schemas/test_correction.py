"""People's corrections of an image's tags."""

import json
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.correction import MAX_BYTES, MAX_NAMES, Corrections, Word, correction, read_correction, withdrawal
from tests.support.growth import LINEAR, growth

SHA, OTHER = "a" * 64, "b" * 64
DOCUMENT = {"schema": "image-correction/1", "bucket": "photos", "key": "a b/ü.jpg", "added": ["dog"]}


def folded(*records: tuple[bytes, bytes | None], people: bool = False) -> Corrections:
    said = Corrections(people=people)
    for key, value in records:
        said.take(key, value)
    return said


def test_a_correction_reads_back_unchanged() -> None:
    key, value = correction("photos", "a b/ü.jpg", added=["dog"], removed=["cat"], sha256=SHA, model=OTHER, by="ann")
    assert key == "photos/a b/ü.jpg".encode()
    said = read_correction(value or b"")
    assert (said.subject, said.added, said.removed) == ("photos/a b/ü.jpg", ("dog",), ("cat",))
    assert (said.sha256, said.model, said.by) == (SHA, OTHER, "ann")
    assert said.at is not None


def test_fields_of_a_later_version_are_ignored() -> None:
    assert read_correction(json.dumps(DOCUMENT | {"mood": "sure"}).encode()).added == ("dog",)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"added": []}, "neither a tag"),
        ({"removed": ["dog"]}, "'dog' is both added and removed"),
        ({"added": ["dog\x1b[2J"]}, "control characters"),
        ({"added": [" dog"]}, "blanks"),
        ({"added": ["x" * 101]}, "at most 100"),
        ({"added": ["x"] * 1_001}, "at most 1000"),
        ({"added": "dog"}, "added: Input should be a valid"),
        ({"bucket": "a/b"}, "bucket"),
        ({"key": "x" * 1_025}, "key"),
        ({"sha256": "A" * 64}, "sha256"),
        ({"schema": "image-correction/2"}, "schema"),
        ({"at": "yesterday"}, "at"),
    ],
)
def test_an_invalid_correction_says_its_fault(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_correction(json.dumps(DOCUMENT | changed).encode())


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"\xff", b"null", b"[" * 100_000, b" " * (MAX_BYTES + 1)])
def test_invalid_bytes_are_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_correction(value)


def test_one_that_can_not_be_is_refused_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="neither a tag"):
        correction("photos", "a.jpg")
    with pytest.raises(ValueError, match="at most"):
        correction("photos", "a.jpg", added=["\N{GRINNING FACE}" * 100] * 900)


def test_the_latest_correction_of_each_tag_counts() -> None:
    said = folded(
        correction("photos", "a.jpg", added=["dog", "grass"]),
        correction("photos", "a.jpg", removed=["dog", "cat"]),
        correction("photos", "b.jpg", added=["sun"]),
    )
    assert said.on("photos/a.jpg", SHA) == Word(added=("grass",), removed=("cat", "dog"))
    assert said.on("photos/b.jpg", SHA) == Word(added=("sun",), removed=())
    assert said.on("photos/c.jpg", SHA) is None
    assert sorted(said) == ["photos/a.jpg", "photos/b.jpg"]


def test_a_word_on_one_content_does_not_hold_for_another() -> None:
    said = folded(
        correction("photos", "a.jpg", added=["dog"], sha256=SHA), correction("photos", "a.jpg", removed=["cat"])
    )
    assert said.on("photos/a.jpg", SHA) == Word(("dog",), ("cat",))
    assert said.on("photos/a.jpg", OTHER) == Word((), ("cat",))
    assert folded(correction("photos", "a.jpg", added=["dog"], sha256=SHA)).on("photos/a.jpg", OTHER) is None


SAID, BEFORE, AFTER = "2026-03-02T12:00:00Z", "2026-03-02T11:59:59Z", "2026-03-02T12:00:01Z"


@pytest.mark.parametrize(
    ("etag", "read", "holds"),
    [
        ("e1", (OTHER, "e1"), True),  # seen through a rendition, and the object itself is read now
        ("e1", (OTHER, "e1", AFTER), True),  # another rendition of the same object
        ("e1", (OTHER, "e2", BEFORE), False),
        ("e1", (OTHER, "e2"), False),
        (None, (OTHER, "e1", BEFORE), True),  # the hash may be of the object itself
        (None, (OTHER, "e1", SAID), True),
        (None, (OTHER, "e1", AFTER), False),  # the object was replaced since
        (None, (OTHER, "e1"), False),
    ],
)
def test_a_word_on_one_content_holds_whichever_of_its_renditions_is_read(
    etag: str | None, read: tuple[str, ...], holds: bool
) -> None:
    said = folded(correction("photos", "a.jpg", added=["dog"], sha256=SHA, etag=etag, by="ann", at=SAID), people=True)
    assert said.on("photos/a.jpg", *read) == (Word(("dog",), (), ("ann",)) if holds else None)


def test_a_withdrawn_correction_has_no_effect() -> None:
    said = folded(correction("photos", "ü.jpg", added=["dog"]), withdrawal("photos", "ü.jpg"))
    assert (said.on("photos/ü.jpg", SHA), len(said), said.bytes) == (None, 0, 0)
    said.take(None, None)
    said.take(b"\xff", None)


def test_an_invalid_record_changes_nothing() -> None:
    said = folded(correction("photos", "a.jpg", added=["dog"]))
    held = said.bytes
    with pytest.raises(ValueError, match="JSON"):
        said.take(b"photos/a.jpg", b"{")
    assert (said.on("photos/a.jpg", SHA), said.bytes) == (Word(("dog",), ()), held)


names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sets(names, max_size=4), st.sets(names, max_size=4)), max_size=12))
def test_the_estimate_rises_and_falls_with_the_corrections(steps: list[tuple[str, set[str], set[str]]]) -> None:
    said = Corrections(people=True)
    for key, added, removed in steps:
        record, rest = withdrawal("photos", key), removed - added
        if added or rest:
            record = correction("photos", key, added=added, removed=rest, by="a" * len(added) or None)
        said.take(*record)
    for key in "abc":
        said.take(*withdrawal("photos", key))
    assert said.bytes == 0


@pytest.mark.parametrize("images", [20, 2_000])
@pytest.mark.parametrize("content", [False, True])
@pytest.mark.parametrize("by", [None, "ann", "\N{GRINNING FACE}" * 250])
def test_the_estimate_is_not_below_the_real_size(images: int, content: bool, by: str | None) -> None:
    said = folded(
        *(
            correction(
                "photos",
                f"folder/{n % images}.jpg",
                added=[f"tag {n}", "dog"],
                removed=["cat"],
                sha256=f"{n:064x}" if content else None,
                by=by and f"{by} {n}",
            )
            for n in range(2_000)
        ),
        people=True,
    )
    seen: set[int] = set()

    def size(value: object) -> int:
        if id(value) in seen or value in (True, False, None):
            return 0
        seen.add(id(value))
        inside = (
            [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, tuple) else ()
        )
        return sys.getsizeof(value) + sum(map(size, inside))

    held = size(said._said)
    assert held < said.bytes < 4 * held


def test_those_who_corrected_are_told_if_wanted_and_fit_for_people() -> None:
    records = [
        correction("photos", "a.jpg", added=["dog"], by="zoe"),
        correction("photos", "a.jpg", added=["sun"], by="ann\u202e\x1b"),
        correction("photos", "a.jpg", removed=["cat"], sha256=OTHER, by="of another content"),
        correction("photos", "a.jpg", removed=["sky"]),
    ]
    word = folded(*records, people=True).on("photos/a.jpg", SHA)
    assert word == Word(("dog", "sun"), ("sky",), ("ann\ufffd\ufffd", "zoe"))
    assert folded(*records).on("photos/a.jpg", SHA) == Word(("dog", "sun"), ("sky",))
    changed = folded(*records, correction("photos", "a.jpg", removed=["dog", "sun"], by="bob"), people=True)
    assert changed.on("photos/a.jpg", SHA) == Word((), ("dog", "sky", "sun"), ("bob",)), "the last word on a tag counts"
    changed.take(*withdrawal("photos", "a.jpg"))
    assert (changed.on("photos/a.jpg", SHA), changed.bytes) == (None, 0)


def test_of_many_people_twenty_are_named() -> None:
    said = folded(
        *(correction("photos", "a.jpg", added=[f"tag {n}"], by=f"{n:03}") for n in range(MAX_NAMES)), people=True
    )
    word = said.on("photos/a.jpg", SHA)
    assert word is not None
    assert word.by == tuple(f"{n:03}" for n in range(20))


def test_an_image_has_no_more_names_than_that_and_each_can_be_changed() -> None:
    said = Corrections()
    for number in range(MAX_NAMES):
        said.take(*correction("photos", "a.jpg", added=[f"tag {number}"]))
    held = said.bytes
    with pytest.raises(ValueError, match="more than 200 names"):
        said.take(*correction("photos", "a.jpg", added=["one more"]))
    said.take(*correction("photos", "a.jpg", removed=["tag 7"]))
    word = said.on("photos/a.jpg", SHA)
    assert word is not None
    assert (len(word.added), word.removed) == (MAX_NAMES - 1, ("tag 7",))
    assert said.bytes == held


def test_no_correction_has_more_names_than_may_be_said_of_an_image() -> None:
    names = [f"tag {number}" for number in range(MAX_NAMES)]
    most = correction("photos", "a.jpg", added=names[1:], removed=names[:1]).value or b""
    assert len(read_correction(most).added) == MAX_NAMES - 1
    with pytest.raises(ValueError, match="more than 200 names"):
        correction("photos", "a.jpg", added=names, removed=["one more"])
    with pytest.raises(ValueError, match="more than 200 names"):
        read_correction(most.replace(b'"tag 1"', b'"tag 1","one more"'))


def test_words_are_asked_for_while_more_are_said() -> None:
    said = folded(correction("photos", "a.jpg", added=["first"]))
    records = [correction("photos", "a.jpg", added=[f"tag {number % 150}"]) for number in range(2_000)]

    def say() -> None:
        for record in records:
            said.take(*record)

    writer = threading.Thread(target=say)
    writer.start()
    counts = []
    while writer.is_alive():
        word = said.on("photos/a.jpg", SHA)
        counts.append(len(word.added) if word else 0)
    writer.join()
    assert counts == sorted(counts)
    assert said.on("photos/a.jpg", SHA) == Word(tuple(sorted(["first", *(f"tag {n}" for n in range(150))])), ())


def test_a_word_on_an_image_of_many_names_takes_no_longer_than_on_one_of_few() -> None:
    few, many = Corrections(), folded(*(correction("photos", "a.jpg", added=[f"tag {n}"]) for n in range(MAX_NAMES)))
    record = correction("photos", "a.jpg", removed=["tag 7"])

    def said_often(said: Corrections) -> None:
        for _ in range(500):
            said.take(*record)

    assert growth(lambda: said_often(few), lambda: said_often(many)) < LINEAR
