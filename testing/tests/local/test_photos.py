from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from tagstream_testing.local import photos
from tagstream_testing.local.photos import NoPhotographs, photographs


def test_the_wheels_carry_real_photographs() -> None:
    found = photographs(None)
    assert len(found) == 10
    assert found[0].key == "scikit-image/chelsea.png"
    for photo in found:
        with Image.open(io.BytesIO(photo.read())) as image:
            assert min(image.size) >= 300
            assert photo.content_type == f"image/{(image.format or '').lower()}"


def test_a_folder_of_ones_own_is_taken_with_its_folders_as_keys(tmp_path: Path) -> None:
    (tmp_path / "a holiday").mkdir()
    for name in ("b.JPG", "a holiday/c+d.webp", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [photo.key for photo in photographs(tmp_path)] == ["a holiday/c+d.webp", "b.JPG"]


def test_without_the_wheels_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "_in_wheels", list)
    with pytest.raises(NoPhotographs, match="make install"):
        photographs(None)


def test_a_folder_without_images_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NoPhotographs, match=r"There is no image in .*\.jpeg, \.jpg"):
        photographs(tmp_path)


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NoPhotographs, match="is no folder"):
        photographs(tmp_path / "nowhere")
