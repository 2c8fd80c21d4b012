"""The sums of the enriched topic and people's corrections."""

from pathlib import Path
from typing import Any

import pytest

from schemas.correction import Corrections, correction
from schemas.enriched_image import (
    CaptionText,
    EnrichedImage,
    EventRef,
    GoneSource,
    ReadRendition,
    Retraction,
    Skip,
    Source,
    Tag,
)
from schemas.version import VERSION_HEADER
from tagstream_train.engine.collect import CollectedLabels, Collection, sample_of
from tests.unit.schemas.documents import enriched
from workers.errors import Misconfigured
from workers.types import Partition

SHA = "a" * 64
EVENT = EventRef(id="e", topic="images", partition=0, offset=0, index=0)


def image(
    key: str, *tags: str, at: int | None = None, modified: str = "2026-01-01T00:00:00Z", **source: Any
) -> EnrichedImage:
    whole = Source(bucket="photos", key=key, etag="e", last_modified=modified, sha256=SHA, **source)
    shown = tuple(Tag(name=name, score=0.9, label_id=number) for number, name in enumerate(tags))
    caption = CaptionText(text="a photo", method="beam")
    return enriched(subject=f"photos/{key}", version=at, source=whole, tags=shown, caption=caption)


def gone(key: str, at: int | None = None, **source: Any) -> Retraction:
    return Retraction(
        subject=f"photos/{key}",
        version=at,
        scope="version" if "version_id" in source else "object",
        event=EVENT,
        source=GoneSource(bucket="photos", key=key, **source),
        produced_at="2026-01-01T00:00:00Z",
    )


def held(*outputs: EnrichedImage | Retraction | Skip) -> dict[str, list[str]]:
    with Collection(Path(":memory:")) as collection:
        for output in outputs:
            collection.take(output.to_bytes())
        assert len(collection) == len(list(collection.images()))
        return {found.source.key: [tag.name for tag in found.tags] for found in collection.images()}


def test_the_newest_event_of_an_image_counts_in_any_order_of_arrival() -> None:
    older, newer = image("a.jpg", "dog", at=1, sequencer="F" * 128), image("a.jpg", "cat", at=2, sequencer="10")
    assert held(older, newer) == held(newer, older) == {"a.jpg": ["cat"]}
    early, late = image("b.jpg", "dog"), image("b.jpg", "cat", modified="2026-01-02T00:00:00Z")
    assert held(early, late) == held(late, early) == {"b.jpg": ["cat"]}
    said = image("c.jpg", "cat", at=1_767_225_600_000_000)
    assert held(image("c.jpg", "dog"), said) == held(said, image("c.jpg", "dog")) == {"c.jpg": ["cat"]}


def test_a_removed_image_is_left_out_and_an_older_event_does_not_restore_it() -> None:
    assert held(image("a.jpg", "dog", at=1, sequencer="F" * 128), gone("a.jpg", 2, sequencer="2")) == {}
    assert held(gone("a.jpg", 2), image("a.jpg", "dog", at=1)) == {}
    assert held(gone("a.jpg", 2, sequencer="F" * 128), image("a.jpg", "dog", at=3)) == {"a.jpg": ["dog"]}


def test_a_removed_version_takes_only_its_own_outcome_with_it_in_any_order() -> None:
    one, removal = image("a.jpg", "dog", at=1, version_id="v1"), gone("a.jpg", 2, version_id="v1")
    assert held(one, removal) == held(removal, one) == {}
    assert held(image("a.jpg", "dog", at=1, version_id="v2"), removal) == {"a.jpg": ["dog"]}
    assert held(image("a.jpg", "dog", at=1), gone("a.jpg", 2, version_id="null")) == {}
    assert held(gone("a.jpg", 2, version_id="null"), image("a.jpg", "dog", at=3)) == {"a.jpg": ["dog"]}


def test_a_tombstone_is_as_good_as_the_retraction_that_compaction_dropped() -> None:
    tombstone = None, b"photos/a.jpg", ((VERSION_HEADER, b"3"),)
    with Collection(Path(":memory:")) as collection:
        collection.take(image("a.jpg", "dog", at=2).to_bytes())
        collection.take(*tombstone)
        assert len(collection) == 0
        collection.take(image("a.jpg", "cat", at=4).to_bytes())
        collection.take(*tombstone)
        assert [found.version for found in collection.images()] == [4]
        for headers in ((), ((VERSION_HEADER, None),), ((VERSION_HEADER, b"-1"),), ((VERSION_HEADER, b"9" * 17),)):
            with pytest.raises(ValueError, match="null value"):
                collection.take(None, b"photos/a.jpg", headers)


def test_skips_and_strangers_are_passed_over() -> None:
    assert held(Skip(event=EVENT, reason="gone"), image("a.jpg", "dog")) == {"a.jpg": ["dog"]}
    with Collection(Path(":memory:")) as collection:
        for value in (None, b"", b"{", b'{"schema":"other/1"}', b"[" * 100_000):
            with pytest.raises(ValueError):  # noqa: PT011  # of whichever parser
                collection.take(value)
        assert len(collection) == 0


@pytest.mark.parametrize(
    "strange",
    [
        image("b.jpg", ""),
        image("b.jpg", "two\nlines"),
        image("b.jpg", "\x1b[2J"),
        image("b.jpg", *map(str, range(10_001))),
        image("b.jpg", "dog").model_copy(update={"caption": CaptionText(text="a" * 20_001, method="beam")}),
    ],
)
def test_an_event_that_would_spoil_the_set_is_passed_over(strange: EnrichedImage) -> None:
    with Collection(Path(":memory:")) as collection:
        collection.take(image("a.jpg", "dog").to_bytes())
        with pytest.raises(ValueError, match=r"tag|caption"):
            collection.take(strange.to_bytes())
        assert [found.source.key for found in collection.images()] == ["a.jpg"]


def test_a_file_that_is_damaged_or_can_not_grow_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "collected.sqlite"
    with Collection(path) as collection:
        for number in range(500):
            collection.take(image(f"{number}.jpg", "dog").to_bytes())
        collection.commit({})
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * 40_000 + content[48_192:])
    with pytest.raises(Misconfigured, match="remove it to collect anew"), Collection(path) as collection:
        list(collection.images())


def test_kept_entries_are_there_again_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "collected.sqlite"
    partition = Partition("enriched", 3)
    with Collection(path) as collection:
        assert collection.positions("enriched") == {}
        collection.take(image("a.jpg", "dog").to_bytes())
        collection.commit({partition: 7})
        collection.take(image("b.jpg", "cat").to_bytes())  # and then the process ends
    with Collection(path) as collection:
        assert collection.positions("enriched") == {partition: 7}
        assert collection.positions("other") == {}
        assert [found.source.key for found in collection.images()] == ["a.jpg"]


def test_a_foreign_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(Misconfigured, match="remove it to collect anew"):
        Collection(tmp_path / "x.sqlite")


def test_a_sample_has_the_tags_of_the_model_and_the_word_of_persons() -> None:
    said = Corrections()
    said.take(*correction("photos", "ü b.jpg", added=["terrier"], removed=["cat", "wolf"]))
    labels = CollectedLabels()
    sample = sample_of(image("ü b.jpg", "dog", "cat"), labels, said)
    assert labels.names == ["dog", "cat", "terrier", "wolf"]
    assert (sample.image, sample.captions, sample.sha256) == ("s3://photos/%C3%BC%20b.jpg", ("a photo",), SHA)
    assert (sample.tags, sample.absent) == ((0, 2), (1, 3))
    assert sample.origins == {0: "generated", 2: "person"}
    assert sample_of(image("other.jpg", "dog"), labels, said).absent is None


def test_a_sample_names_the_rendition_whose_tags_and_hash_it_has() -> None:
    read = ReadRendition(bucket="photos-web", key="a.jpg.jpg", width=8, height=6)
    seen = image("a.jpg", "dog", read=read)
    said = Corrections()
    said.take(*correction("photos", "a.jpg", added=["kite"], sha256="b" * 64, etag="e"))
    labels = CollectedLabels()
    sample = sample_of(seen, labels, said)
    assert (sample.image, sample.sha256) == ("s3://photos-web/a.jpg.jpg", SHA)
    assert [labels.names[label] for label in sample.tags] == ["dog", "kite"], "the word on its original holds"


def test_a_persons_tag_in_an_event_is_a_persons_unless_corrections_say_otherwise() -> None:
    terrier = Tag(name="terrier", score=1, label_id=None, source="person")
    event = image("a.jpg", "dog").model_copy(update={"tags": (terrier, Tag(name="dog", score=0.9, label_id=0))})
    labels = CollectedLabels(["terrier", "dog"])
    assert sample_of(event, labels).origins == {0: "person", 1: "generated"}
    assert sample_of(event, labels, Corrections()).origins == {1: "generated"}, "it was withdrawn since"


def test_of_a_given_list_only_its_names_are_kept_and_the_others_counted() -> None:
    labels = CollectedLabels(["cat", "dog"])
    sample = sample_of(image("a.jpg", "dog", "sea", "sky"), labels)
    sample_of(image("b.jpg", "sea"), labels)
    assert sample.tags == (1,)
    assert labels.names == ["cat", "dog"]
    assert labels.unknown == {"sea": 2, "sky": 1}


def test_any_number_of_unknown_names_takes_little_memory() -> None:
    labels = CollectedLabels(["dog"])
    for number in range(5_000):
        assert labels.id_of(f"unknown {number}") is None
        assert labels.id_of("cat") is None
    assert len(labels.unknown) < 1_100
    assert sum(labels.unknown.values()) == 10_000
    assert labels.unknown["cat"] == 5_000
