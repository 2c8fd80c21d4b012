"""What people see of each kind of message."""

from __future__ import annotations

import io
import json

from rich.console import Console

from schemas.dead_letter import Failure, dead_letter_headers
from workers.backends.kafka_types import ReadRecord
from workers.cli.tail import document, row_of
from workers.vocabulary import Headers


def record(value: object, headers: Headers = ()) -> ReadRecord:
    return ReadRecord("out", 1, 2, 0, b"k", json.dumps(value).encode(), headers)


def line(of: ReadRecord) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(row_of(document(of)))
    return " ".join(out.getvalue().split())


def test_an_enriched_image_shows_its_best_tags_and_its_caption() -> None:
    found = line(
        record(
            {
                "schema": "enriched-image/1",
                "status": "complete",
                "subject": "photos/[red]cat.jpg",
                "tags": [{"name": name, "score": 0.5} for name in "abcdef"],
                "caption": {"text": "a picture of a"},
            }
        )
    )
    assert found == "complete photos/[red]cat.jpg a 0.50, b 0.50, c 0.50, d 0.50 a picture of a"


def test_a_picture_without_a_caption_has_its_row_too() -> None:
    value = '{"schema": "enriched-image/1", "status": "partial", "subject": "s", "tags": [], "caption": null}'
    assert line(record(json.loads(value))) == "partial s"


def test_retractions_and_skips_have_their_rows() -> None:
    assert line(record({"schema": "image-retraction/1", "subject": "photos/a"})) == "removed photos/a"
    event = {"topic": "images", "partition": 0, "offset": 9}
    skipped = {"schema": "skipped/1", "subject": None, "event": event, "reason": "test-event"}
    assert line(record(skipped)) == "skipped images:0:9 test-event"


def test_a_dead_letter_is_shown_by_its_headers_whatever_its_value() -> None:
    headers = dead_letter_headers(
        topic="images", partition=0, offset=4, timestamp_ms=0, attempts=1, worker="0", models={},
        failures=[Failure(index=0, stage="parse", reason="undecodable", detail="not JSON")],
    )  # fmt: skip
    letter = ReadRecord("dead", 0, 0, 0, b"", b"\xff\x00", headers)
    assert line(letter) == "dead images:0:4 undecodable not JSON"
    assert document(letter)["schema"] == "dead-letter/1"
    json.dumps(document(letter))


def test_what_is_none_of_ours_is_shown_by_its_place() -> None:
    assert line(ReadRecord("out", 1, 2, 0, b"k", b"\xff", ())) == "unknown out:1:2"
    assert line(record([1])) == "unknown out:1:2"
