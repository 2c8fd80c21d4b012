"""Invalid checkpoints, lists and bundles: a sentence each, and no remains."""

import json
import os
import shutil
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from tests.unit.models.small import CPU, SMALL, small_checkpoint
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.manifest import Manifest, digest_of
from workers.models.ram.adapters import build_captioner, build_tagger
from workers.models.ram.importer import Lists, import_checkpoint, read_checkpoint

pytestmark = pytest.mark.slow

LABELS = SMALL["ram"].labels
OLD_FORMAT = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
ENCODER = "visual_encoder."
TABLE = ENCODER + "layers.{}.blocks.{}.attn.relative_position_bias_table"

Write = Callable[[Path], None]


def pickled(content: bytes) -> Write:
    """An archive as torch.save makes it, around this pickle."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3\n")
            archive.writestr("archive/byteorder", "little")

    return write


def saved(document: object, *, new: bool = True) -> Write:
    return lambda path: torch.save(document, path, _use_new_zipfile_serialization=new)


def holding(content: bytes) -> Write:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


class Harmful:
    """Runs a command when a plain unpickler reads it."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("echo code of a pickle ran >&2",)


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(
    tmp_path: Path, new: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.pth"
    saved({"model": {"a": torch.zeros(3)}, "more": Harmful()}, new=new)(path)
    with pytest.raises(Misconfigured, match=r"holds more than tensors.*system"):
        read_checkpoint(path)
    assert "ran" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (holding(b""), "no checkpoint that torch can read"),
        (holding(b"PK\x03\x04" + bytes(500)), "no checkpoint that torch can read"),
        (holding(OLD_FORMAT + b"\xff" * 500), "no checkpoint that torch can read"),
        (pickled(b"\x80\x02}"), "no checkpoint that torch can read"),
        (pickled(b"\x80\x02h\x05."), "no checkpoint that torch can read"),
        (lambda path: os.mkfifo(path), "is no file"),
        (lambda path: path.mkdir(), "is no file"),
        (lambda path: None, "does not exist"),
        (saved({"model": zipfile.ZipInfo()}), r"holds more than tensors.*zipfile.ZipInfo"),
        (saved(torch.zeros(3)), "holds no model"),
        (saved({"model": [1, 2]}), "holds no model"),
        (saved({"model": torch.zeros(3)}), "holds no model"),
        (saved({"model": {1: torch.zeros(3)}}), "holds no model"),
        (saved({"model": {"a": torch.zeros(5, 5).to_sparse()}}), "not a dense tensor|no checkpoint"),
        (saved({"model": {"a": torch.zeros(5, device="meta")}}), "not a dense tensor"),
        (saved({"model": {"a": torch.zeros(5, dtype=torch.complex64)}}), "not a dense tensor"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_a_sentence(tmp_path: Path, write: Write, says: str) -> None:
    path = tmp_path / "x.pth"
    write(path)
    with pytest.raises(Misconfigured, match=says) as refusal:
        read_checkpoint(path)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("new", [True, False])
def test_optimizers_and_tied_tensors_in_the_file_are_no_fault(tmp_path: Path, new: bool) -> None:
    path, tied = tmp_path / "x.pth", Parameter(torch.ones(3))
    weights = OrderedDict(a=tied, b=tied, c=torch.zeros(2, 3).T, d=torch.zeros(2).to(torch.bfloat16))
    weights._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    others = [(0.9, 0.999)] * 100, {"a", "b"}, 1j, Counter("ab"), torch.Size((2, 3)), torch.device("cpu")
    saved({"model": weights, "others": others, "types": [torch.float16] * 10}, new=new)(path)
    assert read_checkpoint(path).keys() == weights.keys()


@pytest.fixture
def lists(tmp_path: Path) -> Lists:
    tags = tmp_path / "tags.txt"
    tags.write_text("".join(f"tag {number}\n" for number in range(LABELS)))
    return Lists(tags)


def imported(folder: Path, lists: Lists, changes: dict[str, Tensor], **options: Any) -> None:
    path = folder / "x.pth"
    small_checkpoint("ram", path, changes)
    try:
        import_checkpoint(path, folder / "out", lists, dtype="fp32", **options)
    finally:
        assert not [name for name in os.listdir(folder) if name.startswith((".", "out"))]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"label_embed": torch.tensor(1.0)}, "no label_embed"),
        ({ENCODER + "patch_embed.proj.weight": torch.tensor(1.0)}, "not a Swin transformer"),
        ({TABLE.format(0, 0): torch.zeros(0, 0)}, "no square window"),
        ({TABLE.format(9, 0): torch.zeros(9, 1)}, "lacks blocks"),
        ({TABLE.format(0, 99): torch.zeros(9, 1)}, "lacks blocks"),
        ({TABLE.format("9" * 5000, 0): torch.zeros(9, 1)}, "another size|does not know"),
        ({TABLE.format(0, 99_999_999): torch.zeros(9, 1)}, "another size|does not know"),
    ],
)
def test_a_checkpoint_of_odd_shapes_is_a_sentence(
    tmp_path: Path, lists: Lists, changes: dict[str, Tensor], says: str
) -> None:
    with pytest.raises(Misconfigured, match=says):
        imported(tmp_path, lists, changes)


@pytest.mark.parametrize("image_size", [10**9, 2048, -64])
def test_images_of_no_size_for_this_model_are_a_sentence(tmp_path: Path, lists: Lists, image_size: int) -> None:
    with pytest.raises(Misconfigured, match=r"image_size|don't fit this encoder"):
        imported(tmp_path, lists, {}, image_size=image_size)


def test_weights_that_are_no_numbers_make_no_bundle(tmp_path: Path, lists: Lists) -> None:
    nothing = torch.full((LABELS, 512), torch.nan)
    with pytest.raises(Misconfigured, match="answers are not numbers"):
        imported(tmp_path, lists, {"label_embed": nothing}, config=replace(SMALL["ram"]))


@pytest.mark.parametrize("line", ["nan", "7", "-1", "1e999", "a word", ""])
def test_invalid_thresholds_are_a_sentence(tmp_path: Path, lists: Lists, line: str) -> None:
    (tmp_path / "thresholds.txt").write_text(f"{line}\n" * LABELS)
    with pytest.raises(Misconfigured, match=r"thresholds\.txt"):
        imported(tmp_path, replace(lists, thresholds=tmp_path / "thresholds.txt"), {})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\n" * LABELS, "not text in UTF-8"),
        (b"a\n" * (LABELS - 1) + b"\x1b[2J\n", "control characters"),
        (b"a\n" * (LABELS - 1) + b"a\0b\n", "control characters"),
        (b"a\n" * (LABELS - 1) + b"\n", "empty"),
        (b"a" * (17 * 1024**2), "more than the 16,777,216 bytes"),
    ],
)
def test_a_list_of_odd_names_is_a_sentence(tmp_path: Path, lists: Lists, content: bytes, says: str) -> None:
    lists.tags.write_bytes(content)
    with pytest.raises(Misconfigured, match=says):
        imported(tmp_path, lists, {}, config=replace(SMALL["ram"]))


def claiming(sound: Bundle, folder: Path, changes: Mapping[str, Any]) -> Bundle:
    """The same bundle with other claims in its manifest, sealed as its maker would."""
    shutil.copytree(sound.folder, folder)
    document = json.loads((folder / "model.json").read_text())
    _change(document, changes)
    (folder / "golden.safetensors").unlink()
    del document["files"]["golden.safetensors"]
    document["digest"] = digest_of(Manifest.model_validate(document))
    (folder / "model.json").write_text(json.dumps(document))
    return Bundle.open(folder)


def _change(document: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(document.get(name), dict):
            _change(document[name], value)
        else:
            document[name] = value


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encoder": {"depths": []}}, "the encoder has 1 to 8 stages"),
        ({"encoder": {"heads": [1, 2, 4]}}, "the encoder has 1 to 8 stages"),
        ({"encoder": {"depths": [1] * 100_000}}, "the encoder has 1 to 8 stages"),
        ({"encoder": {"heads": [1, 2, 4, 7]}}, "stage 4 is 128 wide, which 7 heads do not divide"),
        ({"head": {"heads": 5}}, "the tag head is 96 wide, which 5 heads do not divide"),
        ({"text": {"heads": 7}}, "the text branch is 96 wide, which 7 heads do not divide"),
        ({"encoder": {"depths": [1, 1, 99, 99]}}, "the weights do not fit"),
        ({"encoder": {"image_size": 1024}}, "the encoder takes 1024"),
    ],
)
def test_an_invalid_architecture_is_a_sentence(
    tmp_path: Path, tag2text: Bundle, changes: Mapping[str, Any], says: str
) -> None:
    bundle = claiming(tag2text, tmp_path / "bundle", {"architecture": changes})
    for build in (build_tagger, build_captioner):
        with pytest.raises(Misconfigured, match=says) as refused:
            build(bundle, CPU, "fp32")
        assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize("decoding", [{"beams": 10**6}, {"max_length": 10**9}, {"max_length": 3}])
def test_captions_that_can_not_be_written_are_a_sentence(
    tmp_path: Path, tag2text: Bundle, decoding: Mapping[str, int]
) -> None:
    bundle = claiming(tag2text, tmp_path / "bundle", {"options": {"decoding": decoding}})
    with pytest.raises(Misconfigured, match="the option `decoding`"):
        build_captioner(bundle, CPU, "fp32")
