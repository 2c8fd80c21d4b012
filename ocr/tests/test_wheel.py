"""The bundle that is made of the wheel, its networks beside onnxruntime 1.31.1, and other files."""

import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch

from tagstream_ocr.graph import Network
from tagstream_ocr.model import OcrModel
from tagstream_ocr.wheel import OnnxNetwork, import_wheel, read_network
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.device import choose_device

DIGEST = "eb0ed67464c6f901c6625f58f1659d36fadc5a8bb0ed9cb1de6eaba620a6224e"
"""Another digest forgets all cached results of this model."""


def imported(file: Path, out: Path) -> Bundle | None:
    return import_wheel(file, out, progress=lambda doing, done, total: None, replace_existing=False)


@pytest.fixture(scope="module")
def bundle(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    made = imported(wheel, tmp_path_factory.mktemp("bundles") / "ocr")
    assert made is not None
    return made


@pytest.mark.slow
def test_the_wheel_becomes_a_bundle_with_its_licence(bundle: Bundle) -> None:
    assert bundle.digest == DIGEST
    assert bundle.manifest.provenance.licence == "Apache-2.0"
    assert "Apache License" in (bundle.folder / "LICENSE").read_text()
    for name in ("NOTICE", "MODEL_LICENSES.md"):
        assert "Baidu" in (bundle.folder / name).read_text()
    assert bundle.golden is not None
    assert bundle.golden.captions == ("words\nin pictures\nread and found",)
    bundle.verify()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_bundle_gives_its_golden_answer(precision: str, bundle: Bundle) -> None:
    model = OcrModel(bundle, choose_device("cpu"), precision)  # type: ignore[arg-type]
    model.warm_up()


def test_the_entry_point_names_the_importer() -> None:
    (point,) = entry_points(group="tagstream.importers", name="rapidocr")
    assert point.load() is import_wheel


def test_other_files_are_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "text.whl").write_text("rapidocr")
    assert imported(tmp_path / "text.whl", tmp_path / "out") is None


def test_another_wheel_of_its_name_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "rapidocr-3.10.0-py3-none-any.whl"
    for name in ("PP-OCRv6_det_small.onnx", "another.onnx"):
        with zipfile.ZipFile(other, "w") as made:
            made.writestr(f"rapidocr/models/{name}", b"another network")
        with pytest.raises(Misconfigured, match="sha256"):
            imported(other, tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_damaged_wheel_is_refused(wheel: Path, tmp_path: Path) -> None:
    content = bytearray(wheel.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / wheel.name).write_bytes(content)
    with pytest.raises(Misconfigured, match="sha256"):
        imported(tmp_path / wheel.name, tmp_path / "out")


EXPECTED = np.load(Path(__file__).with_name("networks.npz"))
"""Of one generator's normal numbers, in the order of `NAMES`; the recogniser's for every 37th character."""
NAMES = ("PP-OCRv6_det_small", "PP-OCRv6_rec_small", "ch_ppocr_mobile_v2.0_cls_mobile")
EACH = 37


@pytest.fixture(scope="module")
def networks(wheel: Path) -> dict[str, OnnxNetwork]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: read_network(archive.read(f"rapidocr/models/{name}.onnx"), name) for name in NAMES}


def inputs() -> dict[str, torch.Tensor]:
    numbers = np.random.Generator(np.random.Philox(11))
    return {
        name: torch.from_numpy(numbers.standard_normal(EXPECTED[f"{name}.shape"].tolist(), dtype=np.float32))
        for name in NAMES
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_network_gives_the_numbers_of_onnxruntime(name: str, networks: dict[str, OnnxNetwork]) -> None:
    read = networks[name]
    with torch.inference_mode():
        found = Network(name, read.graph, read.tensors, torch.device("cpu"), torch.float32)(inputs()[name]).numpy()
    few = found[..., ::EACH] if found.ndim == 3 else found
    np.testing.assert_allclose(few, EXPECTED[name], rtol=0, atol=1e-4)
    if found.ndim == 3:
        assert found.argmax(2).tolist() == EXPECTED[f"{name}.argmax"].tolist()


@pytest.mark.slow
def test_the_recogniser_brings_its_characters(networks: dict[str, OnnxNetwork]) -> None:
    characters = networks[NAMES[1]].metadata["character"].split("\n")
    assert len(characters) == len(set(characters)) == 18_708
    assert {"ß", "€", "é", "林"} <= set(characters)
