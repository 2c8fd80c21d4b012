"""Makes a bundle of the networks in the wheel rapidocr 3.10.0.

The wheel is read as an archive and never installed. Its networks are known by their sha256, whatever its version.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from tagstream_ocr.kind import BUNDLE_KIND
from tagstream_ocr.model import GRAPHS, Graphs, build_model, golden_answers
from tagstream_ocr.onnx_file import OnnxNetwork, read_network
from tagstream_ocr.reading import TRANSFORM
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.device import choose_device
from workers.models.files import sha256_of
from workers.models.manifest import Manifest, Provenance
from workers.models.pull import Progress

_NETWORKS: Final = {
    "detect": ("PP-OCRv6_det_small.onnx", "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f"),
    "recognise": ("PP-OCRv6_rec_small.onnx", "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884"),
    "upright": (
        "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
    ),
}
"""File and sha256 of each network."""
_LICENCES: Final = ("LICENSE", "MODEL_LICENSES.md")
"""Files of the wheel that go with the weights."""
_NOTICE: Final = b"""\
The weights in this folder are those of PP-OCRv6 small (detection and recognition) and of PP-OCR's classifier of upright
text. Copyright Baidu and the authors of PaddleOCR; Apache License 2.0, in the file LICENSE.
Changed by tagstream: the ONNX files of the package rapidocr became weights.safetensors and graphs.json.
"""
_MAX_BYTES: Final = 32 * 1024**2
"""Of a file in the wheel."""


def import_wheel(file: Path, out: Path, *, progress: Progress, replace_existing: bool) -> Bundle | None:
    """Make a bundle of a wheel; None if the file is no archive with these networks' names.

    Raises:
        Misconfigured: a network or a licence is missing, damaged, or another one.
    """
    members = _members(file)
    if not members.keys() & {name for name, _ in _NETWORKS.values()}:
        return None
    networks = dict[str, OnnxNetwork]()
    for part, (name, sha256) in _NETWORKS.items():
        progress("reading the networks", len(networks), len(_NETWORKS))
        content = _content(file, members, name)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise Misconfigured(f"{file}: {name} is not the file of rapidocr 3.10.0; take the wheel of that version.")
        networks[part] = read_network(content, part)
    texts = {"NOTICE": _NOTICE} | {name: _content(file, members, name) for name in _LICENCES}
    provenance = Provenance(source=f"PyPI {file.name}", sha256=sha256_of(file), licence="Apache-2.0")
    progress("writing the bundle and its golden answers", 0, 1)
    bundle = write_bundle(out, networks, provenance, texts, replace_existing=replace_existing)
    progress("writing the bundle and its golden answers", 1, 1)
    return bundle


def write_bundle(
    out: Path,
    networks: Mapping[str, OnnxNetwork],
    provenance: Provenance,
    texts: Mapping[str, bytes],
    *,
    side: int = TRANSFORM.size,
    replace_existing: bool = False,
) -> Bundle:
    """Write a bundle of three networks, with its golden answers.

    Args:
        networks: by the names of `Graphs`.
        texts: further files by name.
        side: of the images, in pixels.

    Raises:
        Misconfigured: the folder exists, or the networks do not fit.
    """
    graphs = Graphs(**{part: network.graph for part, network in networks.items()})
    files = {GRAPHS: graphs.model_dump_json(exclude_defaults=True).encode(), **texts}
    manifest = Manifest(
        kind=BUNDLE_KIND,
        name="pp-ocr-v6-small",
        provenance=provenance,
        transform=replace(TRANSFORM, size=side),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    return Bundle.write(
        out,
        manifest,
        weights={name: tensor for network in networks.values() for name, tensor in network.tensors.items()},
        labels=[*networks["recognise"].metadata["character"].split("\n"), " "],
        beside={name: _writer(content) for name, content in files.items()},
        golden=lambda made: golden_answers(build_model(made, choose_device("cpu"), "fp32")),
        replace_existing=replace_existing,
    )


def _writer(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _members(file: Path) -> dict[str, zipfile.ZipInfo]:
    """An archive's files by their names without folders; empty for other files."""
    try:
        with zipfile.ZipFile(file) as archive:
            return {info.filename.rpartition("/")[2]: info for info in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError):
        return {}


def _content(file: Path, members: Mapping[str, zipfile.ZipInfo], name: str) -> bytes:
    """Raises Misconfigured: it is missing, damaged or too large."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open(members[name]) as opened:
            content = opened.read(_MAX_BYTES + 1)
    except (KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise Misconfigured(f"{file}: {name} is missing or damaged; download the file again.") from error
    if len(content) > _MAX_BYTES:
        raise Misconfigured(f"{file}: {name} has more than {_MAX_BYTES:,} bytes.")
    return content
