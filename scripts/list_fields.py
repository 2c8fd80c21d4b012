"""Writes docs/reference/fields.md: every field of every message, out of the published schemas.

    python -m scripts.list_fields

A test compares the page with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from schemas.stored_scores import LAYOUT
from scripts.messages.asyncapi import ENRICHED_HEADERS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "fields.md"
MESSAGES = {
    "image-event-1": "What producers send",
    "s3-notification": "What S3 and MinIO send",
    "image-correction-1": "What `tagstream correct` sends",
    "enriched-image-1": "An enriched image",
    "image-retraction-1": "A retraction",
    "skipped-1": "A skip",
    "dead-letter-1": "A dead letter's headers",
}
"""The file of each published schema, and its heading."""
INTRODUCTION = """\
# Fields

Every field of every message, generated from the JSON Schemas in `schemas/published`, which have patterns and lengths
too. [Upgrading](../guide/upgrading.md#the-messages) says what may change within a version. A field is required unless
its type says *optional*.
"""
LONGEST_CHOICE = 8
"""Most values of a field that are listed; more are counted."""

Json = dict[str, Any]


def page() -> str:
    """The whole page."""
    known: Json = {}
    messages = (line for file, heading in MESSAGES.items() for line in _message(file, heading, known))
    return "\n".join([INTRODUCTION, *messages, *_binary()])


def _binary() -> Iterator[str]:
    """The binary headers: the bytes of each value."""
    yield "## Headers of an enriched image's record\n"
    yield (
        "Beside `tagstream-version` (the `version` as text) a record may have two binary headers, for a later change "
        "of settings. Numbers are little-endian.\n"
    )
    for name, fields in LAYOUT.items():
        yield f"**{name}**. {_text(ENRICHED_HEADERS['properties'][name])}\n"
        yield "| bytes | meaning |\n|---|---|"
        for size, meaning in fields:
            yield f"| {size} | {meaning} |"
        yield ""


def _message(file: str, heading: str, known: Json) -> Iterator[str]:
    """A message's heading and fields, and those of its objects except `known` ones, which it extends."""
    document = json.loads((ROOT / "schemas" / "published" / f"{file}.json").read_text(encoding="utf-8"))
    yield f"## {heading}\n"
    yield f"`schemas/published/{file}.json`. {_text(document)}\n"
    yield from _table(document)
    for name, below in document.get("$defs", {}).items():
        if "properties" in below and known.get(name) != below:
            known[name] = below
            yield f"**{name}**. {_text(below)}".strip() + "\n"
            yield from _table(below)


def _table(schema: Json) -> Iterator[str]:
    required = schema.get("required", ())
    yield "| field | type | meaning |\n|---|---|---|"
    rows = [
        (f"`{name}`", f"{_type(field)}{'' if name in required else ', optional'}", _text(field))
        for name, field in schema["properties"].items()
    ]
    for (kind, meaning), alike in groupby(rows, key=lambda row: row[1:]):
        yield f"| {', '.join(name for name, *_ in alike)} | {kind} | {meaning} |"
    yield ""


def _type(field: Json) -> str:
    """A value's type in JSON's words; an object with a table of its own by its name."""
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(choice) for choice in field["anyOf"]))
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        many = len(field["enum"]) > LONGEST_CHOICE
        return f"one of {len(field['enum'])} words" if many else ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"array of {_type(field.get('items', {}))}"
    if field.get("format") == "date-time":
        return "date and time"
    return str(field.get("type", "any"))


def _text(schema: Json) -> str:
    """A schema's description on one line that a table can hold."""
    return " ".join(schema.get("description", "").split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
