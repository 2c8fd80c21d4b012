"""Profiles: what lies between measured images, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workers.capacity import BUILT_IN, Decoded, MachineProfile
from workers.capacity.profile import MOST_BYTES
from workers.cli.capacity import read_profile
from workers.errors import Misconfigured

COMPACT = BUILT_IN["compact"]


def decoding(*points: tuple[float, float]) -> MachineProfile:
    decoded = tuple(Decoded(megapixels=size, core_s=core_s) for size, core_s in points)
    return COMPACT.model_copy(update={"decoded": decoded})


def test_between_two_measured_images_lies_a_line() -> None:
    profile = decoding((1, 0.01), (3, 0.02))
    assert profile.decode_core_s(2) == pytest.approx(0.015)
    assert profile.decode_core_s(5) == pytest.approx(0.03)


def test_a_smaller_image_costs_at_least_its_share_of_the_smallest_measured() -> None:
    profile = decoding((1, 0.001), (2, 0.1))
    assert profile.decode_core_s(0.5) == pytest.approx(0.0005)


def test_one_measured_image_is_taken_in_proportion_and_images_of_one_size_in_the_mean() -> None:
    assert decoding((2, 0.02)).decode_core_s(4) == pytest.approx(0.04)
    assert decoding((2, 0.01), (2, 0.03)).decode_core_s(2) == pytest.approx(0.02)


def test_a_batch_costs_a_part_for_itself_and_one_for_each_image() -> None:
    profile = COMPACT.model_copy(update={"single_s": 1.0, "batch": 4, "batch_s": 2.5, "device_cores": 2.0})
    assert [profile.batch_core_s(images) for images in (1, 2, 4)] == pytest.approx([2.0, 3.0, 5.0])
    assert profile.image_s == 2.5 / 4


def test_a_file_that_was_written_reads_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "here.json"
    file.write_text(COMPACT.model_dump_json(by_alias=True))
    assert read_profile(str(file)) == COMPACT
    assert read_profile("compact") is COMPACT


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch": 0}, "batch"),
        ({"batch_s": -1.0}, "batch_s"),
        ({"single_s": None}, "single_s"),
        ({"decoded": []}, "decoded"),
        ({"decoded": [{"megapixels": 1, "core_s": 1e300}]}, "decoded.0.core_s"),
        ({"schema": "tagstream-profile/2"}, "schema"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_a_document_that_is_no_profile_is_refused_in_a_sentence(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    file = tmp_path / "here.json"
    file.write_text(json.dumps(json.loads(COMPACT.model_dump_json(by_alias=True)) | change))
    with pytest.raises(Misconfigured, match=rf"is no profile: {named}: .*tagstream bench -o"):
        read_profile(str(file))


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 5_000, b"\xff\xfe", b"{}"])
def test_bytes_that_are_no_profile_are_refused_in_a_sentence(tmp_path: Path, body: bytes) -> None:
    file = tmp_path / "here.json"
    file.write_bytes(body)
    with pytest.raises(Misconfigured, match="is no profile"):
        read_profile(str(file))


def test_a_file_without_end_is_not_read_to_it(tmp_path: Path) -> None:
    file = tmp_path / "here.json"
    with file.open("wb") as large:
        large.truncate(MOST_BYTES + 1)
    with pytest.raises(Misconfigured, match="larger than any profile"):
        read_profile(str(file))


def test_a_name_that_is_neither_ours_nor_a_file_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"compact, ram-bf16, .*tagstream bench -o"):
        read_profile(str(tmp_path / "none"))
