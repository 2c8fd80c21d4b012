"""What people see of each kind of message."""

import io
import json
from typing import Any

import pytest
from rich.console import RenderableType

from schemas.dead_letter import Failure, dead_letter_headers
from tests.support.command import Tagstream
from tests.support.growth import LINEAR, growth
from tests.unit.schemas.documents import enriched, retraction, skip
from workers.cli import terminal
from workers.cli.outcomes import Outcome, header
from workers.types import Headers, ReadRecord


def published_record(value: bytes | None, headers: Headers = ()) -> ReadRecord:
    return ReadRecord("out", 1, 2, 0, b"k", value, headers)


def document(of: ReadRecord) -> dict[str, Any]:
    return Outcome.of(of).document()


def printed(what: RenderableType) -> str:
    console = terminal.console()
    console.file = io.StringIO()
    console.print(what)
    [shown] = console.file.getvalue().splitlines()
    assert shown.isprintable()
    return " ".join(shown.split())


def line(of: ReadRecord) -> str:
    shown = printed(Outcome.of(of).row())
    assert shown.startswith("1970-01-01 00:00:00 ")
    return shown.removeprefix("1970-01-01 00:00:00 ")


def test_a_tombstone_shows_its_key() -> None:
    assert line(published_record(None)) == "tombstone k"
    assert document(published_record(None)) == {
        "schema": None,
        "topic": "out",
        "partition": 1,
        "offset": 2,
        "tombstone": "k",
    }
    assert (Outcome.of(published_record(None)).kind, Outcome.of(published_record(b"")).kind) == ("tombstone", "unknown")


def with_tags(*names: str, **fields: Any) -> ReadRecord:
    tags = [{"name": name, "score": 0.5, "label_id": number} for number, name in enumerate(names)]
    return published_record(enriched(tags=tags, **fields).to_bytes())


def test_an_enriched_image_shows_its_best_tags_and_its_caption() -> None:
    assert line(with_tags(*"abcdef")) == "enriched photos/a.jpg a 0.50, b 0.50, c 0.50, d 0.50 a dog on grass"


def test_a_persons_tag_that_the_model_does_not_know_is_shown() -> None:
    terrier = {"name": "terrier", "score": 1.0, "label_id": None, "source": "person"}
    assert (
        line(published_record(enriched(tags=(terrier,), caption=None).to_bytes()))
        == "enriched photos/a.jpg terrier 1.00"
    )


def test_an_image_without_a_caption_has_its_row_too() -> None:
    assert line(with_tags(caption=None, status="partial", reason="caption-failed")) == "partial photos/a.jpg"


@pytest.mark.parametrize("letter", ["x", "é ", "日本 ", "\u0301", "👩\u200d👧"])
def test_a_row_takes_no_longer_for_a_caption_of_a_megabyte(letter: str) -> None:
    def caption(characters: int) -> Outcome:
        text = letter * (characters // len(letter))
        value = enriched(caption={"text": text, "score": None, "method": "template", "guided_by": ()}).to_bytes()
        return Outcome.of(published_record(value))

    small, large = caption(1_000), caption(1_000_000)
    assert growth(lambda: printed(small.row()), lambda: printed(large.row())) < LINEAR


def test_retractions_and_skips_have_their_rows() -> None:
    assert line(published_record(retraction().to_bytes())) == "retraction photos/a.jpg"
    assert line(published_record(skip(subject=None, reason="test-event").to_bytes())) == "skip images:3:17 test-event"


def test_a_dead_letter_is_shown_by_its_headers_whatever_its_value() -> None:
    of = dead_letter(None, b"\xff\x00")
    assert line(of) == "dead-letter images:0:4 undecodable not JSON"  # from a record without a key
    assert document(of)["schema"] == "dead-letter/1"
    json.dumps(document(of))


def test_a_document_has_also_the_fields_of_a_later_version() -> None:
    later = json.loads(enriched().to_bytes()) | {"more": [1]}
    assert document(published_record(json.dumps(later).encode())) == later


def dead_letter(key: bytes | None, value: bytes = b"") -> ReadRecord:
    headers = dead_letter_headers(
        topic="images", partition=0, offset=4, timestamp_ms=0, attempts=1, worker="0", models={},
        failures=[Failure(index=0, stage="parse", reason="undecodable", detail="not JSON")],
    )  # fmt: skip
    return ReadRecord("dead", 0, 3, 0, key, value, headers)


@pytest.mark.parametrize(
    ("of", "kind", "key"),
    [
        (with_tags(), "enriched", "photos/a.jpg"),
        (published_record(retraction().to_bytes()), "retraction", "photos/a.jpg"),
        (published_record(skip(subject="photos/b.jpg").to_bytes()), "skip", "photos/b.jpg"),
        (published_record(skip(subject=None).to_bytes()), "skip", "k"),
        (dead_letter(b"photos/c.jpg"), "dead-letter", "photos/c.jpg"),
        (dead_letter(None), "dead-letter", ""),
        (dead_letter(b"\xff"), "dead-letter", "\ufffd"),
        (published_record(b"{}"), "unknown", "k"),
    ],
)
def test_outcomes_can_be_chosen_by_kind_and_by_the_images_key(of: ReadRecord, kind: str, key: str) -> None:
    outcome = Outcome.of(of)
    assert (outcome.kind, outcome.key) == (kind, key)


def test_a_dead_letter_is_shown_by_its_key_and_wide_also_by_where_its_record_was() -> None:
    of = dead_letter(b"photos/c.jpg")
    assert line(of) == "dead-letter photos/c.jpg undecodable not JSON"
    wide = printed(Outcome.of(of).wide())
    assert "dead:0:3" in wide
    assert "photos/c.jpg" in wide
    assert "images:0:4" in wide


def test_a_wide_row_leaves_nothing_out_and_says_where_the_record_stands() -> None:
    names = [one * 100 for one in "abcdef"]
    shown = printed(Outcome.of(with_tags(*names)).wide())
    tags = ", ".join(f"{name} 0.50" for name in names)
    assert shown == f"1970-01-01 00:00:00 out:1:2 enriched photos/a.jpg {tags} a dog on grass"
    assert printed(header(wide=True)).split() == ["when", "record", "what", "image", "tags", "caption"]
    assert printed(header(wide=False)).split() == ["when", "what", "image", "tags", "caption"]


def test_a_line_of_json_says_also_where_the_record_stands() -> None:
    published = published_record(enriched().to_bytes())
    shown = json.loads(Outcome.of(published).json_line())
    assert shown.pop("_record") == {"topic": "out", "partition": 1, "offset": 2, "timestamp_ms": 0}
    assert shown == document(published)


def test_a_number_that_json_does_not_have_is_null() -> None:
    """Parsers of messages take NaN; jq and most others do not."""
    published = enriched().to_bytes()[:-1] + b',"more":[NaN,-Infinity,1e999,1.5]}'
    shown = json.loads(Outcome.of(published_record(published)).json_line(), parse_constant=pytest.fail)
    assert shown["more"] == [None, None, None, 1.5]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("--kind", "gone"),
            "--kind gone: known are enriched, partial, retraction, skip, dead-letter, tombstone, unknown",
        ),
        (("--since", "10x"), "'10x' is no time: 2026-01-31, 2026-01-31T08:00Z, or 90m, 12h, 7d (ago)"),
        (("--since", "1h", "--from-beginning"), "--from-beginning and --since both say where to begin: keep one"),
    ],
)
def test_a_wrong_choice_ends_with_2_and_a_sentence(arguments: tuple[str, ...], says: str, tagstream: Tagstream) -> None:
    ran = tagstream("tail", *arguments)
    assert (ran.code, ran.err) == (2, f"{says}\n")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"\xff", "Invalid JSON: "),
        (b"", "Invalid JSON: "),
        (b"[1]", "Input should be "),
        (b"{}", "its `schema` is none that is known"),
        (b'{"schema": 5}', "its `schema` is none that is known"),
        (b"[" * 100_000, "Invalid JSON: recursion limit "),
        (b"9" * 100_000, "Invalid JSON: number out of range "),
        (b'{"schema": "enriched-image/1", "id": "\\ud800"}', "Invalid JSON: "),
        (b'{"schema": "image-retraction/1"}', "image-retraction/1.subject: Field required"),
        (enriched().to_bytes().replace(b"640", b"-1"), "enriched-image/1.image.width: "),
    ],
)
def test_a_foreign_record_is_one_line_that_says_why(value: bytes | None, why: str) -> None:
    assert line(published_record(value)).startswith(f"unknown out:1:2 passed over: {why}"[:100])
    assert document(published_record(value)).keys() == {"schema", "topic", "partition", "offset", "passed_over"}


def test_a_dead_letter_without_failures_is_invalid() -> None:
    headers: Headers = (("tagstream-schema", b"dead-letter/1"), ("tagstream-failures", b"[]"))
    assert line(published_record(b"", headers)).startswith(
        "unknown out:1:2 passed over: a dead letter without the header"
    )


NASTY = "[red]cat\\[/x]\x1b[2J\x9b\x7f\u202e\n:smile:.jpg"


def test_nothing_from_outside_is_markup_or_steers_the_terminal() -> None:
    source = enriched().source.model_copy(update={"key": NASTY})
    caption = {"text": NASTY, "method": "greedy"}
    shown = line(with_tags(NASTY, subject=f"photos/{NASTY}", source=source, caption=caption))
    whole = printed(Outcome.of(with_tags(NASTY, subject=f"photos/{NASTY}", source=source, caption=caption)).wide())
    plain = "[red]cat\\[/x]\ufffd[2J\ufffd\ufffd\ufffd\ufffd:smile:.jpg"
    assert shown == f"enriched photos/{plain} {plain} 0.50 {plain}"
    assert whole.endswith(shown)


@pytest.mark.parametrize("indent", [None, 2])
def test_json_for_a_terminal_reads_back_and_steers_nothing(indent: int | None) -> None:
    document = {NASTY: [NASTY, "ü狗\U000e0001", {"": None}]}
    written = terminal.as_json(document, indent=indent)
    assert json.loads(written) == document
    assert all(part.isprintable() for part in written.split("\n"))
    assert "ü狗" in written


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [(0, "1970-01-01 00:00:00"), (-1, "1969-12-31 23:59:59"), (2**62, f"{2**62} ms"), (-(2**62), f"{-(2**62)} ms")],
)
def test_an_impossible_time_is_shown_as_text(milliseconds: int, shown: str) -> None:
    assert terminal.moment(milliseconds) == shown
