"""Checkpoints and lists that are none: a sentence each, in little memory, and nothing is left behind."""

from __future__ import annotations

import os
import resource
import struct
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from tests.unit.models.small import SMALL, small_checkpoint
from workers.cli.app import run_command
from workers.cli.exit_codes import MISCONFIGURED
from workers.errors import Misconfigured
from workers.models.ram.importer import Lists, import_checkpoint, read_checkpoint

pytestmark = pytest.mark.slow

LABELS = SMALL["ram"].labels
OLD_FORMAT = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
DROPPED_STRING = b"X" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20) + b"0"
"""A megabyte of a pickle that nothing keeps."""
A_GIGABYTE = b"\x8a\x04" + (1_000_000_000).to_bytes(4, "little")
DOUBLED = b"X\x03\x00\x00\x00hex\x86R"
"""Of what lies on the stack as bytes, their digits."""
ENCODER = "visual_encoder."
TABLE = ENCODER + "layers.{}.blocks.{}.attn.relative_position_bias_table"


def nested(depth: int, kind: str = "list") -> bytes:
    """Lists or tuples, each of which holds the one before it twice: the last is kept under its depth."""
    content = (b"]" if kind == "list" else b"K\x01") + b"q\x00"
    for number in range(depth):
        twice = b"h%c" % number * 2
        content += (b"](%be" if kind == "list" else b"%b\x86") % twice + b"q%c" % (number + 1)
    return content


ORDERED = b"ccollections\nOrderedDict\n)R"

Write = Callable[[Path], None]


def pickled(content: bytes, compression: int = zipfile.ZIP_STORED, name: str = "data.pkl") -> Write:
    """An archive as torch.save makes it, around this pickle."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr(f"archive/{name}", content)
            archive.writestr("archive/version", "3\n")
            archive.writestr("archive/byteorder", "little")

    return write


def twofold(path: Path) -> None:
    """An archive with two lists of its parts: torch finds one of a compressed pickle, zipfile one of a plain part."""
    pickled(b"\x80\x02X" + (1 << 24).to_bytes(4, "little") + b"a" * (1 << 24) + b".", zipfile.ZIP_DEFLATED)(path)
    content = path.read_bytes()
    end = content.rindex(b"PK\5\6")
    length, offset = struct.unpack("<LL", content[end + 12 : end + 20])
    name, body = b"archive/data.pkl", b"\x80\x02N."
    facts = struct.pack("<3LHH", zlib.crc32(body), len(body), len(body), len(name), 0)
    part = b"PK\3\4" + struct.pack("<5H", 20, 0, 0, 0, 0) + facts + name + body
    begins = end + len(part) - offset  # zipfile takes the archive to begin there
    comment = bytes(length - 46 - len(name))  # so that both lists have one length
    listed = b"PK\1\2" + struct.pack("<6H", 20, 20, 0, 0, 0, 0) + facts
    listed += struct.pack("<HHHLL", len(comment), 0, 0, 0, end - begins) + name + comment
    path.write_bytes(content[:end] + part + listed + content[end:])


def repeated(path: Path) -> None:
    """An archive whose list names one large pickle a hundred times."""
    pickled(b"\x80\x02" + b"N0" * 4_000_000 + b"N.")(path)
    content = path.read_bytes()
    end = content.rindex(b"PK\5\6")
    length, offset = struct.unpack("<LL", content[end + 12 : end + 20])
    first = content[offset : content.index(b"PK\1\2", offset + 4)]
    listed = content[offset : offset + length] + first * 99
    counts = struct.pack("<HHLL", 102, 102, len(listed), offset)
    path.write_bytes(content[:offset] + listed + content[end : end + 8] + counts + content[end + 20 :])


def saved(document: object) -> Write:
    return lambda path: torch.save(document, path)


def holding(content: bytes) -> Write:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (holding(b""), "no checkpoint that torch can read"),
        (holding(b"PK\x03\x04" + bytes(500)), "no checkpoint that torch can read"),
        (holding(OLD_FORMAT + b"\xff" * 500), "no checkpoint that torch can read"),
        (holding(OLD_FORMAT + b"\x80\x02" + (DROPPED_STRING * 10)), "the list of its tensors has more"),
        (pickled(b"\x80\x02}"), "no checkpoint that torch can read"),
        (pickled(b"\x80\x02a."), "no checkpoint that torch can read"),
        (pickled(b"\x80\x02" + b"(" * 200_000 + b"."), "no checkpoint that torch can read"),
        (pickled(b"\x80\x02h\x05."), "no checkpoint that torch can read"),
        (pickled(b"\x80\x02K\x01Q."), "no checkpoint that torch can read"),
        (pickled(b"\x80\x02}]K\x01s."), "no checkpoint that torch can read"),
        (pickled(b"\x80\x02X\xff\xff\xff\xffab."), "no checkpoint that torch can read"),
        (pickled(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01tR."), "no checkpoint that torch can read"),
        (pickled(b"\x80\x02" + b"N0" * 20_000_000 + b"N.", zipfile.ZIP_DEFLATED), "compressed parts"),
        (pickled(b"\x80\x02" + b"N0" * 5_000_000 + b"N."), "the list of its tensors has"),
        (pickled(b"\x80\x02" + b"N0" * 5_000_000 + b"N.", name="DATA.PKL"), "the list of its tensors has"),
        (pickled(b"\x80\x02ctorch\n" + b"u" * 30_000 + b"\n."), "names something with 30,005 characters"),
        (pickled(b"\x80\x02" + nested(40) + b")R."), "no checkpoint that torch can read"),
        (pickled(b"\x80\x02" + nested(40) + b")\x81."), "no checkpoint that torch can read"),
        (pickled(b"\x80\x02" + nested(40) + ORDERED + b"K\x01h(s)R."), "no checkpoint that torch can read"),
        (pickled(b"\x80\x02" + nested(40) + b"\x85Q."), "holds the same lists again and again"),
        (pickled(b"\x80\x02" + nested(40) + b"ctorch\nSize\nh(\x85R."), "holds the same lists again and again"),
        (pickled(b"\x80\x02" + nested(40) + ORDERED + b"h(b."), "holds the same lists again and again"),
        (pickled(b"\x80\x02" + nested(40, "tuple") + b"}h(K\x01s."), "holds the same lists again and again"),
        (pickled(b"\x80\x02K\x01" + b"2\x86" * 40 + b"q\x01}h\x01K\x01s."), "no checkpoint that torch can read"),
        (twofold, "does not end with the list of its parts"),
        (repeated, "its parts claim 800,"),
        (pickled(b"\x80\x02}X\x05\x00\x00\x00modelcbuiltins\nbytearray\n" + A_GIGABYTE + b"\x85Rs."), "holds bytes"),
        (pickled(b"\x80\x05\x96" + (1 << 30).to_bytes(8, "little") + b"."), "holds bytes"),
        (pickled(b"\x80\x02" + b"c_codecs\nencode\n" * 25 + b"U\x04abcd" + DOUBLED * 25 + b"."), "holds bytes"),
        (
            holding(OLD_FORMAT + b"\x80\x02N." * 3 + b"\x80\x02" + b"]" * 9_000_000 + b"."),
            "the list of its tensors has more",
        ),
        (lambda path: os.mkfifo(path), "is no file"),
        (saved({"model": zipfile.ZipInfo()}), r"unpickled here \(Unsupported global: GLOBAL zipfile.ZipInfo was not"),
        (saved(torch.zeros(3)), "holds no model"),
        (saved({"model": [1, 2]}), "holds no model"),
        (saved({"model": torch.zeros(3)}), "holds no model"),
        (saved({"model": {1: torch.zeros(3)}}), "holds no model"),
        (saved({"model": {"a": torch.zeros(1).as_strided((10**6, 10**6), (0, 0))}}), "claim 4,000,000,000,000 bytes"),
        (saved({"model": {str(n): torch.zeros(100_000).expand(1000, -1) for n in range(9)}}), "claim 3,600,000,000"),
        (saved({"model": {"a": torch.zeros(5, 5).to_sparse()}}), "no plain array|no checkpoint"),
        (saved({"model": {"a": torch.zeros(5, device="meta")}}), "no plain array"),
        (saved({"model": {"a": torch.zeros(5, dtype=torch.complex64)}}), "no plain array"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_a_sentence(tmp_path: Path, write: Write, says: str) -> None:
    path = tmp_path / "x.pth"
    write(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Misconfigured, match=says) as refusal:
        read_checkpoint(path)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_what_a_checkpoint_holds_twice_in_earnest_is_read(tmp_path: Path) -> None:
    path, tied, betas = tmp_path / "x.pth", Parameter(torch.ones(3)), (0.9, 0.999)
    weights = OrderedDict(a=tied, b=tied, c=torch.zeros(2, 3).T, d=torch.zeros(2).to(torch.bfloat16))
    weights._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    others = [betas] * 100, [["shared"]] * 100, {"a", "b"}, 1j, Counter("ab"), torch.Size((2, 3)), torch.device("cpu")
    for new in (True, False):
        torch.save(
            {"model": weights, "others": others, "types": [torch.float16] * 10},
            path,
            _use_new_zipfile_serialization=new,
        )
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
        ({ENCODER + "patch_embed.proj.weight": torch.tensor(1.0)}, "no Swin transformer"),
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
def test_thresholds_that_are_none_are_a_sentence(tmp_path: Path, lists: Lists, line: str) -> None:
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


def test_the_command_ends_with_2_and_one_sentence(
    tmp_path: Path, lists: Lists, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.pth"
    pickled(b"\x80\x02a.")(path)
    command = ["models", "import", str(path), "-o", str(tmp_path / "out"), "--tags", str(lists.tags)]
    assert run_command(command) == MISCONFIGURED
    said = capsys.readouterr().err
    assert "no checkpoint that torch can read" in said.replace("\n", " ")
    assert "Traceback" not in said
