import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import save

from tests.unit.models.tiny import LABELS, SIDE, tiny_bundle, tiny_manifest, tiny_weights
from workers.errors import Misconfigured
from workers.models.bundle import Bundle, Golden, list_bundles, pinned
from workers.models.manifest import NOT_IN_DIGEST, FileFacts, Manifest, Provenance, digest_of
from workers.types import Transform


def test_a_written_bundle_opens_unchanged(tiny: Bundle) -> None:
    opened = Bundle.open(tiny.folder)
    assert opened.manifest == tiny.manifest
    assert opened.labels == LABELS
    assert opened.thresholds == (0.5, 0.6, 0.7, 1.0)
    assert opened.profiles == {"strict": (0.9,) * 4}
    assert torch.equal(opened.weights()["weight"], tiny_weights()["weight"])


def test_blanks_at_the_end_of_a_name_belong_to_it(tiny: Bundle) -> None:
    assert tiny.labels[3] == "grey "
    assert tiny.translations["de"] == ("rot", "grün", "blau", "grau ")


OTHER: dict[str, object] = {
    "kind": "other",
    "name": "other",
    "provenance": Provenance(source="another seed", random=True),
    "transform": Transform(size=SIDE, interpolation="bicubic"),
    "mean": (0.5, 0.4, 0.31),
    "std": (0.2, 0.3, 0.41),
    "labels": 5,
    "languages": ("de", "fr"),
    "thresholds": 0.3,
    "profiles": {},
    "floor": 0.2,
    "architecture": {"heads": 4},
    "options": {"decoding": {"method": "greedy"}},
    "digest": "0" * 64,
}


def test_every_field_of_the_manifest_makes_another_digest_unless_a_reason_says_why_not(tiny: Bundle) -> None:
    assert set(OTHER) | {"format", "files"} == set(Manifest.model_fields)
    unchanged = {
        field
        for field, value in OTHER.items()
        if digest_of(tiny.manifest.model_copy(update={field: value})) == tiny.digest
    }
    assert unchanged == set(NOT_IN_DIGEST)
    assert all(NOT_IN_DIGEST.values())


@pytest.mark.parametrize("field", [field.name for field in fields(Transform)])
def test_every_field_of_the_transform_makes_another_digest(tiny: Bundle, field: str) -> None:
    other: dict[str, Any] = {"size": 9, "fit": "crop", "resize": 12, "interpolation": "bicubic", "exif_transpose": True}
    transform = replace(tiny.manifest.transform, **{field: other[field]})
    assert digest_of(tiny.manifest.model_copy(update={"transform": transform})) != tiny.digest


def test_every_file_that_a_score_depends_on_makes_another_digest(tiny: Bundle) -> None:
    files = tiny.manifest.files
    changed = {
        name
        for name in files
        if digest_of(tiny.manifest.model_copy(update={"files": files | {name: FileFacts(bytes=1, sha256="0" * 64)}}))
        != tiny.digest
    }
    assert changed == set(files) - {"golden.safetensors", "parents.json"}
    vocabulary = files | {"vocab.txt": FileFacts(bytes=1, sha256="0" * 64)}
    assert digest_of(tiny.manifest.model_copy(update={"files": vocabulary})) != tiny.digest


def test_a_pinned_digest_takes_that_bundle_alone(tiny: Bundle, tmp_path: Path) -> None:
    other = tiny_bundle(tmp_path / "other", mean=(0.1, 0.1, 0.1))
    assert pinned(tiny, tiny.digest, "X") is tiny
    assert pinned(other, "", "X") is other
    with pytest.raises(Misconfigured, match=f"X wants {tiny.digest}"):
        pinned(other, tiny.digest, "X")


def test_a_captioners_golden_answers_keep_their_texts(tmp_path: Path) -> None:
    pixels = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    golden = Golden(pixels, np.zeros((1, 0), np.float32), guides=("a | b",), captions=("a ünïcode caption",))
    Bundle.write(tmp_path / "b", tiny_manifest(thresholds=0.5), weights=tiny_weights(), golden=lambda _: golden)
    reopened = Bundle.open(tmp_path / "b").golden
    assert reopened is not None
    assert (reopened.guides, reopened.captions) == (golden.guides, golden.captions)


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


def _folder(folder: Path) -> None:
    (folder / "model.json").unlink()
    (folder / "model.json").mkdir()


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
        (_folder, "can't be read: Is a directory"),
        (_remove("weights.safetensors"), r"weights\.safetensors is missing"),
        (_remove("tags.txt"), r"tags\.txt is missing"),
        (_remove("tags.de.txt"), r"tags\.de\.txt is missing"),
        (_cut("weights.safetensors"), "cut short or changed"),
        (_cut("golden.safetensors"), "cut short or changed"),
        (_replace("tags.txt", "red", "rad"), "not the bundle's original file"),
        (_replace("model.json", '"labels": 4', '"labels": 5'), r"tags\.txt has 4 entries for 5 labels"),
        (_replace("model.json", '"kind": "tiny",', ""), "kind: Field required"),
        (_replace("model.json", '"floor": 0.1', '"floor": 1.1'), "floor: "),
        (_replace("model.json", "tagstream-bundle/1", "tagstream-bundle/2"), "format: "),
        (_replace("model.json", '"kind"', '"kid": 1, "kind"'), "kid: "),
        (_replace("model.json", "{", ""), "the document: "),
        (_replace("model.json", '"weights.safetensors"', '"weights.bin"'), r"does not list weights\.safetensors"),
        (_replace("model.json", '"digest": "', '"digest": "0'), "its digest does not match"),
    ],
)
def test_a_damaged_bundle_is_refused_with_a_sentence(tiny: Bundle, damage: Callable[[Path], None], says: str) -> None:
    damage(tiny.folder)
    with pytest.raises(Misconfigured, match=says) as refusal:
        Bundle.open(tiny.folder)
    assert "\n" not in str(refusal.value)


def _manifest(**changes: object) -> Callable[[Path], None]:
    """Sets fields of model.json, and gives it the digest that belongs to them."""

    def change(folder: Path) -> None:
        path = folder / "model.json"
        document = json.loads(path.read_text()) | changes
        with contextlib.suppress(ValidationError):
            document["digest"] = digest_of(Manifest.model_validate(document))
        path.write_text(json.dumps(document))

    return change


def _file(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)
        files = json.loads((folder / "model.json").read_text())["files"]
        facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        _manifest(files=files | {name: facts})(folder)

    return change


def _listed(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        outside = folder.parent / "outside.txt"
        outside.write_text("not yours")
        files = json.loads((folder / "model.json").read_text())["files"]
        facts = {"bytes": 9, "sha256": hashlib.sha256(b"not yours").hexdigest()}
        _manifest(files=files | {name.format(outside=outside): facts})(folder)

    return change


def _linked(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(folder.parent / name)

    return change


def _golden(**tensors: NDArray[Any]) -> Callable[[Path], None]:
    pixels, outputs = np.zeros((2, SIDE, SIDE, 3), np.uint8), np.zeros((2, 4), np.float32)
    whole: dict[str, NDArray[Any]] = {"pixels": pixels, "outputs": outputs}
    return _file("golden.safetensors", save(whole | tensors))


def _fifo(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_listed("{outside}"), "files"),
        (_listed("../outside.txt"), "files"),
        (_listed("sub/../../outside.txt"), "files"),
        (_linked("tags.txt"), r"tags\.txt is a link out of the bundle"),
        (_linked("weights.safetensors"), r"weights\.safetensors is a link out of the bundle"),
        (_fifo("model.json"), r"model\.json can.t be read: it is no regular file"),
        (_fifo("tags.txt"), r"tags\.txt is missing"),
        (_manifest(labels=10**9), "labels"),
        (_manifest(labels=-1), "labels"),
        (_manifest(languages=["../../etc"]), "languages"),
        (_manifest(std=[0.0, 1.0, 1.0]), "std"),
        (_manifest(transform={"size": 10**9}), "transform"),
        (_manifest(transform={"size": 8, "resize": -1}), "transform"),
        (_manifest(thresholds=[0.5] * 10**6), "thresholds has 1,000,000 entries"),
        (_manifest(name="x" * (17 * 1024**2)), "has more than the 16,777,216 bytes"),
        (lambda folder: (folder / "model.json").write_bytes(b"[" * 10**6) and None, "the document"),
        (lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe") and None, "the document"),
        (_file("tags.txt", b"red\ngr\xfcn\nblue\ngrey\n"), r"tags\.txt is not text in UTF-8"),
        (_file("tags.txt", b"red\ngreen\r\nblue\ngrey\n"), r"tags\.txt, line 2: a name with control characters"),
        (_file("tags.txt", b"red\ngreen\nblue\n\x1b[2J\n"), r"tags\.txt, line 4: a name with control characters"),
        (_file("tags.txt", b"\n" * 100_001), r"tags\.txt has more than 100,000 lines"),
        (_file("tags.de.txt", b"\xff\n" * 4), r"tags\.de\.txt is not text"),
        (_file("golden.safetensors", b""), r"golden\.safetensors is damaged"),
        (_file("golden.safetensors", b"\xff" * 100), r"golden\.safetensors is damaged"),
        (_file("golden.safetensors", (2**27).to_bytes(8, "little") + b"{"), r"golden\.safetensors is damaged"),
        (_file("golden.safetensors", save({"other": np.zeros(1)})), r"golden\.safetensors is damaged"),
        (_golden(pixels=np.zeros((2, 4, 4, 3), np.uint8)), "side of 8"),
        (_golden(pixels=np.zeros((0, SIDE, SIDE, 3), np.uint8)), "side of 8"),
        (_golden(pixels=np.zeros((2, SIDE, SIDE, 3), np.float32)), "side of 8"),
        (_golden(outputs=np.zeros((3, 4), np.float32)), "outputs of float32"),
        (_golden(outputs=np.full((2, 4), np.nan, np.float32)), "not numbers"),
        (
            _file(
                "golden.safetensors",
                save(
                    {"pixels": np.zeros((1, SIDE, SIDE, 3), np.uint8), "outputs": np.zeros((1, 4), np.float32)},
                    metadata={"guides": "[1]", "captions": "{"},
                ),
            ),
            r"golden\.safetensors is damaged",
        ),
    ],
)
def test_a_hostile_bundle_is_refused_with_a_sentence(tiny: Bundle, damage: Callable[[Path], None], says: str) -> None:
    damage(tiny.folder)
    with pytest.raises(Misconfigured, match=says) as refusal:
        assert Bundle.open(tiny.folder).golden is not None
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 600


def test_a_link_inside_the_bundle_is_a_file_of_it(tiny: Bundle) -> None:
    (tiny.folder / "tags.txt").rename(tiny.folder / "names")
    (tiny.folder / "tags.txt").symlink_to("names")
    assert Bundle.open(tiny.folder).labels == LABELS


def test_weights_with_a_header_of_any_length_are_a_sentence(tiny: Bundle) -> None:
    path = tiny.folder / "weights.safetensors"
    for header in (2**24 + 1, 2**63):
        path.write_bytes(header.to_bytes(8, "little") + path.read_bytes()[8:])
        with pytest.raises(Misconfigured, match="a header of"):
            Bundle.open(tiny.folder).weights()


@pytest.mark.parametrize("look", [Bundle.verify, lambda bundle: pinned(bundle, bundle.digest, "X")])
def test_changed_weights_of_the_same_length_are_found_by_verify_and_by_a_pinned_digest(
    tiny: Bundle, look: Callable[[Bundle], object]
) -> None:
    path = tiny.folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(Misconfigured, match=r"weights\.safetensors is not the bundle's original file"):
        look(Bundle.open(tiny.folder))


def test_weights_with_a_damaged_header_are_a_sentence(tiny: Bundle) -> None:
    path = tiny.folder / "weights.safetensors"
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(Misconfigured, match=r"weights\.safetensors is damaged"):
        Bundle.open(tiny.folder).weights()


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
