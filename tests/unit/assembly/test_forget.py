"""The arguments of `tagstream forget`, its findings, and its words on other places."""

import json
from pathlib import Path

import pytest

from tests.support.command import Tagstream
from workers.assembly.forget_reach import Finder, _of_topic
from workers.rendition import Rendition
from workers.republish.forgetting import Subjects
from workers.types import ReadRecord

KEY = 'ü/"a"\n.jpg'
ONE = Finder(Subjects(frozenset([f"photos/{KEY}", "photos/b"])))
UNDER = Finder(Subjects(prefix="photos/2026/"))


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (b"photos/b", True),
        (b"photos?versionId=v%2F1/b", True),
        (b"s3://photos/b", True),
        (json.dumps({"subject": f"photos/{KEY}"}).encode(), True),
        (json.dumps({"subject": f"photos/{KEY}"}, ensure_ascii=False).encode(), True),
        (f'{{"caption":"photos/c","subject":"photos/{KEY}'.encode().replace(b'"a"\n', b'\\"a\\"\\n') + b'"}', True),
        (b"photos/photos/b", False),
        (b'{"other":"photos/photos/b","subject":"photos/b"}', True),
        (b"photos/bb", False),
        (b"photos/b/c", False),
        (b"my-photos/b", False),
        (b"myphotos/b", False),
        (b"photos/", False),
        (b"", False),
        (b"b", False),
    ],
)
def test_a_name_is_found_whole_and_as_json_escapes_it(where: bytes, found: bool) -> None:
    assert ONE.finds(where) is found


@pytest.mark.parametrize(
    ("where", "found"), [(b'"photos/2026/x"', True), (b"photos/2026", False), (b"a/2026/x", False)]
)
def test_a_prefix_is_found_under_its_bucket(where: bytes, found: bool) -> None:
    assert UNDER.finds(where) is found


def test_renditions_of_a_prefix_are_found_in_their_own_bucket() -> None:
    beside = Rendition.of("{bucket}-web/{key}.jpg", ["photos", "photos-web", "photos-web-web"])
    under = Finder(Subjects(prefix="photos/2026/").with_renditions(beside))
    names = (b"photos-web/2026/a.jpg", b"photos-web/2026/a.gif", b"photos-web/2025/a.jpg")
    assert [under.finds(name) for name in names] == [True, False, False]


def record_with(value: bytes) -> ReadRecord:
    return ReadRecord("images", 0, 0, 0, b"k", value, (("h", None),))


def test_an_event_that_names_bucket_and_key_apart_is_found_in_topics_of_events() -> None:
    own = json.dumps({"schema": "image-event/1", "id": "1", "bucket": "photos", "key": "b"}).encode()
    s3 = {"bucket": {"name": "photos"}, "object": {"key": "%62", "sequencer": "0A"}}
    notified = json.dumps({"Records": [{"eventName": "s3:ObjectCreated:Put", "s3": s3}]}).encode()
    assert [ONE.finds_in_record(record_with(value), parse=True) for value in (own, notified, b"{}", b"\xff")] == [
        True,
        True,
        False,
        False,
    ]
    assert not ONE.finds_in_record(record_with(own), parse=False)


def test_a_file_has_a_name_or_a_key_in_quotes(tmp_path: Path) -> None:
    texts = ['{"last": "b"}', "at photos/b", '{"last": "bb"}', ""]
    for number, text in enumerate(texts):
        (tmp_path / str(number)).write_text(text)
    assert [ONE.finds_in_file(tmp_path / str(number)) for number in range(4)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("settings", "ends"),
    [
        ({"cleanup.policy": "delete", "retention.ms": "3600000", "segment.ms": "0"}, True),
        ({"cleanup.policy": "delete", "retention.ms": "-1"}, False),
        ({"cleanup.policy": "delete", "retention.ms": str(2**63 - 1), "segment.ms": "0"}, False),
        ({"cleanup.policy": "compact", "retention.ms": "3600000"}, False),
        ({}, False),
    ],
)
def test_only_the_retention_of_a_topic_ends_its_records(settings: dict[str, str], ends: bool) -> None:
    assert (_of_topic("images", settings).until is not None) is ends


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("photos/a", "--prefix", "photos/"),
        ("photos",),
        ("/a",),
        ("--prefix", "photos"),
        ("--prefix", "/a"),
        ("--list", "empty"),
        ("--list", "wrong"),
        ("--list", "absent"),
    ],
)
def test_what_names_no_image_is_refused(
    arguments: tuple[str, ...], tagstream: Tagstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").write_text("\n\n")
    Path("wrong").write_text("photos/a\nphotos\n")
    said = tagstream("forget", *arguments).fails()
    assert "wrong" not in arguments or "line 2" in said
