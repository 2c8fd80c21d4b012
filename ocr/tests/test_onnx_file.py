"""The three networks in the wheel, beside what onnxruntime 1.31.1 gave for the same numbers."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tagstream_ocr.graph import Network
from tagstream_ocr.wheel import OnnxNetwork, read_network

pytestmark = pytest.mark.slow

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


@pytest.mark.parametrize("name", NAMES)
def test_a_network_gives_the_numbers_of_onnxruntime(name: str, networks: dict[str, OnnxNetwork]) -> None:
    read = networks[name]
    with torch.inference_mode():
        found = Network(name, read.graph, read.tensors, torch.device("cpu"), torch.float32)(inputs()[name]).numpy()
    few = found[..., ::EACH] if found.ndim == 3 else found
    np.testing.assert_allclose(few, EXPECTED[name], rtol=0, atol=1e-4)
    if found.ndim == 3:
        assert found.argmax(2).tolist() == EXPECTED[f"{name}.argmax"].tolist()


def test_the_recogniser_brings_its_characters(networks: dict[str, OnnxNetwork]) -> None:
    characters = networks[NAMES[1]].metadata["character"].split("\n")
    assert len(characters) == len(set(characters)) == 18_708
    assert {"ß", "€", "é", "林"} <= set(characters)
