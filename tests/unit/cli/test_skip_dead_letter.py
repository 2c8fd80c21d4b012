"""The dead letter of a record that an operator skips is made as those of the worker are."""

from __future__ import annotations

from schemas.dead_letter import read_dead_letter_headers
from workers.cli.skip import Skipping
from workers.settings import Settings
from workers.types import Assignment, Partition


def test_a_skipped_record_is_null_truncated_and_named_by_its_coordinates() -> None:
    skipping = Skipping(Settings(input_topics=("images",)), "images", 3, 41)
    message = skipping._dead_letter(Assignment(Partition("images", 3), "me"), limit=1 << 20)
    dead_letter = read_dead_letter_headers(message.headers)
    assert dead_letter is not None
    assert (dead_letter.topic, dead_letter.partition, dead_letter.offset, dead_letter.last_offset) == (
        "images",
        3,
        41,
        41,
    )
    assert (message.key, message.value, dead_letter.nulls, dead_letter.truncated) == (b"", b"", ("key", "value"), True)
    assert [failure.reason for failure in dead_letter.failures] == ["skipped-by-operator"]
