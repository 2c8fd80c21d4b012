from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.models.tiny import LABELS, SIDE, tiny_bundle, tiny_manifest, tiny_weights
from workers.errors import Misconfigured
from workers.models.bundle import Bundle, Golden, digest_of, list_bundles


def test_a_written_bundle_opens_as_it_was_written(tiny: Bundle) -> None:
    opened = Bundle.open(tiny.folder)
    assert opened.manifest == tiny.manifest
    assert opened.labels == LABELS
    assert opened.thresholds == (0.5, 0.6, 0.7, 1.0)
    assert opened.profiles == {"strict": (0.9,) * 4}
    assert torch.equal(opened.weights()["weight"], tiny_weights()["weight"])


def test_blanks_at_the_end_of_a_name_belong_to_it(tiny: Bundle) -> None:
    assert tiny.labels[3] == "grey "
    assert tiny.translations["de"] == ("rot", "grün", "blau", "grau ")


def test_the_digest_is_of_weights_and_labels_alone(tiny: Bundle, tmp_path: Path) -> None:
    other = tiny_bundle(tmp_path / "other", thresholds=0.3, name="renamed", floor=0.2)
    files = tiny.manifest.files
    assert other.digest == tiny.digest == digest_of(files["weights.safetensors"].sha256, files["tags.txt"].sha256)


def test_other_labels_make_another_digest(tiny: Bundle, tmp_path: Path) -> None:
    other = Bundle.write(tmp_path / "b", tiny_manifest(), weights=tiny_weights(), labels=[*LABELS[:3], "gray"])
    assert other.digest != tiny.digest


def test_golden_answers_are_those_of_the_bundles_own_weights(tiny: Bundle) -> None:
    assert tiny.golden is not None
    assert tiny.golden.pixels.shape == (2, SIDE, SIDE, 3)
    assert tiny.golden.outputs.shape == (2, 4)
    assert np.isfinite(tiny.golden.outputs).all()


def test_a_captioners_golden_answers_keep_their_texts(tmp_path: Path) -> None:
    pixels = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    golden = Golden(pixels, np.zeros((1, 0), np.float32), guides=("a | b",), captions=("a ünïcode caption",))
    Bundle.write(tmp_path / "b", tiny_manifest(thresholds=0.5), weights=tiny_weights(), golden=lambda _: golden)
    reopened = Bundle.open(tmp_path / "b").golden
    assert reopened is not None
    assert (reopened.guides, reopened.captions) == (golden.guides, golden.captions)


def test_a_whole_bundle_verifies(tiny: Bundle) -> None:
    tiny.verify()


def test_an_existing_bundle_is_not_overwritten(tiny: Bundle) -> None:
    with pytest.raises(Misconfigured, match="exists already"):
        tiny_bundle(tiny.folder, thresholds=0.9)
    assert Bundle.open(tiny.folder).thresholds[0] == 0.5


def test_replacing_a_bundle_leaves_only_the_new_one(tiny: Bundle) -> None:
    Bundle.write(tiny.folder, tiny_manifest(), weights=tiny_weights(), labels=LABELS, replace_existing=True)
    assert Bundle.open(tiny.folder).golden is None
    assert os.listdir(tiny.folder.parent) == ["tiny"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail(_: Bundle) -> Golden:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Bundle.write(tmp_path / "b", tiny_manifest(), weights=tiny_weights(), labels=LABELS, golden=fail)
    assert os.listdir(tmp_path) == []


def test_every_file_of_a_bundle_is_readable_by_other_users(tiny: Bundle) -> None:
    assert {path.stat().st_mode & 0o777 for path in tiny.folder.iterdir()} == {0o644}
    assert tiny.folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("labels", [["a", "", "c", "d"], ["a", "b\nc", "d", "e"]], ids=["empty", "with a line break"])
def test_a_label_that_does_not_fit_a_line_is_refused(tmp_path: Path, labels: list[str]) -> None:
    with pytest.raises(Misconfigured, match=r"tags\.txt"):
        Bundle.write(tmp_path / "b", tiny_manifest(), weights=tiny_weights(), labels=labels)


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _cut(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 1)


def _replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_remove("model.json"), "is not a bundle"),
        (_remove("weights.safetensors"), r"weights\.safetensors is missing"),
        (_remove("tags.txt"), r"tags\.txt is missing"),
        (_remove("tags.de.txt"), r"tags\.de\.txt is missing"),
        (_cut("weights.safetensors"), "cut short or changed"),
        (_cut("golden.safetensors"), "cut short or changed"),
        (_replace("tags.txt", "red", "rad"), "not the file that the bundle was made with"),
        (_replace("model.json", '"labels": 4', '"labels": 5'), r"tags\.txt has 4 entries for 5 labels"),
        (_replace("model.json", '"kind": "tiny",', ""), "kind: Field required"),
        (_replace("model.json", '"floor": 0.1', '"floor": 1.1'), "floor: "),
        (_replace("model.json", "tagstream-bundle/1", "tagstream-bundle/2"), "format: "),
        (_replace("model.json", '"kind"', '"kid": 1, "kind"'), "kid: "),
        (
            _replace(
                "model.json",
                "{",
                "",
            ),
            "the document: ",
        ),
        (_replace("model.json", '"weights.safetensors"', '"weights.bin"'), r"does not list weights\.safetensors"),
        (_replace("model.json", '"digest": "', '"digest": "0'), "its digest is not that of"),
    ],
)
def test_a_damaged_bundle_is_refused_with_a_sentence(tiny: Bundle, damage: Callable[[Path], None], says: str) -> None:
    damage(tiny.folder)
    with pytest.raises(Misconfigured, match=says) as refusal:
        Bundle.open(tiny.folder)
    assert "\n" not in str(refusal.value)


def test_thresholds_of_another_number_than_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="thresholds has 3 entries for 4 labels"):
        tiny_bundle(tmp_path / "b", thresholds=(0.1, 0.2, 0.3))
    assert os.listdir(tmp_path) == []


def test_changed_weights_of_the_same_length_are_found_by_verify(tiny: Bundle) -> None:
    path = tiny.folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    bundle = Bundle.open(tiny.folder)
    with pytest.raises(Misconfigured, match=r"weights\.safetensors is not the file"):
        bundle.verify()


def test_weights_whose_header_is_damaged_are_a_sentence(tiny: Bundle) -> None:
    path = tiny.folder / "weights.safetensors"
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(Misconfigured, match=r"weights\.safetensors is damaged"):
        Bundle.open(tiny.folder).weights()


def test_a_manifest_that_cannot_be_read_is_a_sentence(tiny: Bundle) -> None:
    (tiny.folder / "model.json").unlink()
    (tiny.folder / "model.json").mkdir()
    with pytest.raises(Misconfigured, match="can't be read: Is a directory"):
        Bundle.open(tiny.folder)


def test_the_manifest_holds_nothing_but_plain_json(tiny: Bundle) -> None:
    document = json.loads((tiny.folder / "model.json").read_text())
    assert document["transform"] == {
        "size": 8, "fit": "squash", "resize": 0, "interpolation": "bilinear", "exif_transpose": False,
    }  # fmt: skip
    assert set(document["files"]) == {"weights.safetensors", "tags.txt", "tags.de.txt", "golden.safetensors"}


def test_listing_gives_bundles_by_name_and_errors_for_the_rest(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "b")
    tiny_bundle(tmp_path / "a")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "model.json").write_text("{}")
    (tmp_path / "photographs").mkdir()
    first, second, third = list_bundles(tmp_path)
    assert isinstance(first, Bundle)
    assert isinstance(second, Bundle)
    assert [first.folder.name, second.folder.name] == ["a", "b"]
    assert isinstance(third, Misconfigured)
