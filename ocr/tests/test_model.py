"""The model of a bundle, with three small networks."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ocr.tests.tiny import SIDE, tiny_networks, tiny_ocr_bundle
from schemas.result_kinds import ResultKind
from tagstream_ocr.kind import OcrKind
from tagstream_ocr.model import GRAPHS, OcrModel
from tagstream_testing.conformance import KIND_CHECKS, LoadResultModel
from workers.errors import Broken, Misconfigured
from workers.models.bundle import Bundle, Golden
from workers.models.device import choose_device
from workers.types import ImageAbout, Pixels, Transform

CPU = choose_device("cpu")
ABOUT = ImageAbout("PNG", SIDE, SIDE, 1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_ocr_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def model(bundle: Bundle) -> OcrModel:
    return OcrModel(bundle, CPU, "fp32")


def page(*boxes: tuple[int, int, int, int]) -> Pixels:
    """White, with black boxes: left, top, right, bottom."""
    pixels = np.full((SIDE, SIDE, 3), 255, np.uint8)
    for left, top, right, bottom in boxes:
        pixels[top:bottom, left:right] = 0
    return pixels


@pytest.mark.slow
@pytest.mark.parametrize("check", KIND_CHECKS, ids=lambda check: str(check.__name__))
def test_the_model_keeps_the_promises_of_its_port(
    check: Callable[[ResultKind, LoadResultModel], None], bundle: Bundle
) -> None:
    check(OcrKind(), lambda: OcrModel(bundle, CPU, "fp32"))


def test_a_bundle_is_made_with_its_golden_answer(model: OcrModel, bundle: Bundle) -> None:
    assert bundle.golden is not None
    assert bundle.golden.captions[0]
    bundle.verify()
    model.warm_up()
    assert (model.digest, model.precision, model.random_weights) == (bundle.digest, "fp32", True)


def test_a_line_of_text_is_found_where_it_stands(model: OcrModel) -> None:
    (answer,) = model.forward([page((40, 80, 140, 100))], [ImageAbout("PNG", 2 * SIDE, 2 * SIDE, 1)])
    (line,) = model.postprocess(answer).lines
    assert line.text == "b"
    corners = np.array(line.corners) / 2
    np.testing.assert_allclose(corners.min(0), (40, 80), atol=30)
    np.testing.assert_allclose(corners.max(0), (140, 100), atol=30)


def test_an_image_without_text_gives_none(model: OcrModel) -> None:
    (answer,) = model.forward([page()], [ABOUT])
    assert model.postprocess(answer).model_dump() == {"text": "", "lines": (), "truncated": False}


def strip(*columns: int) -> Pixels:
    """(48, 8 n, 3): eight columns of each brightness."""
    return np.repeat(np.array(columns, np.uint8), 8)[None, :, None].repeat(48, 0).repeat(3, 2)


def test_a_character_goes_on_until_another_or_none_is_likelier(model: OcrModel) -> None:
    strips = np.stack([strip(0, 0, 127, 0, 255, 255), strip(*[127] * 6), strip(0, 0, 0, 0, 0, 0)])
    (first, score), nothing, (last, _) = model.recognise(strips)
    assert (first, nothing, last) == ("aab", ("", 0.0), "a")
    assert 0.9 < score <= 1


def test_the_networks_take_blue_before_red(model: OcrModel) -> None:
    """The tiny judge finds blue strips upside down."""
    strips = np.zeros((2, 48, 192, 3), np.uint8)
    strips[0, :, :, 2] = strips[1, :, :, 0] = 255
    assert model.is_upside_down(strips) == [True, False]


def test_a_batch_stays_one_image_whatever_was_tuned(model: OcrModel) -> None:
    model.max_batch = 8
    assert model.max_batch == 1


def test_a_device_that_computes_wrongly_is_found(model: OcrModel) -> None:
    (answer,) = model.forward([model.self_test_image()], [ABOUT])
    model.check_self_test(answer)
    with pytest.raises(Broken):
        model.check_self_test(answer._replace(row=answer.row + np.float32(0.01)))
    with pytest.raises(Broken):
        model.check_self_test(answer._replace(found=answer.found.model_copy(update={"text": "other"})))
    with pytest.raises(ValueError, match="not a number"):
        model.postprocess(answer._replace(row=np.full_like(answer.row, np.nan)))


def test_a_recogniser_that_gives_no_numbers_is_an_error(tmp_path: Path) -> None:
    recognise = tiny_networks()["recognise"]
    recognise.tensors["recognise.b"] = torch.full((4,), torch.nan)
    with pytest.raises(ValueError, match="not a number"):
        tiny_ocr_bundle(tmp_path / "bundle", recognise=recognise)


def rewritten(bundle: Bundle, folder: Path, graphs: bytes = b"", *, golden: Golden | None, **fields: object) -> Bundle:
    """A copy as another's program may have written it: with other graphs, other fields of the manifest."""
    content = graphs or (bundle.folder / GRAPHS).read_bytes()
    return Bundle.write(
        folder,
        bundle.manifest.model_copy(update=fields),
        weights={name: tensor.clone() for name, tensor in bundle.weights().items()},
        labels=bundle.labels,
        beside={GRAPHS: lambda path: path.write_bytes(content)},
        golden=None if golden is None else lambda _: golden,
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"graphs": b"{"},
        {"graphs": b'{"detect": {}}'},
        {"transform": Transform(SIDE, "squash", interpolation="bilinear")},
        {"transform": Transform(SIDE, "pad", interpolation="bilinear", exif_transpose=True)},
        {"transform": Transform(SIDE + 1, "pad", interpolation="bilinear")},
        {"transform": Transform(1024, "pad", interpolation="bilinear")},
    ],
)
def test_a_bundle_of_another_form_is_refused(fields: dict[str, Any], bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured):
        OcrModel(rewritten(bundle, tmp_path / "other", golden=None, **fields), CPU, "fp32")


def test_int8_is_refused(bundle: Bundle) -> None:
    with pytest.raises(Misconfigured):
        OcrModel(bundle, CPU, "int8")


@pytest.mark.parametrize("part", ["detect", "recognise", "upright"])
def test_a_network_whose_answers_have_another_shape_is_refused(part: str, bundle: Bundle, tmp_path: Path) -> None:
    graphs = json.loads((bundle.folder / GRAPHS).read_bytes())
    graphs[part]["nodes"].append(
        {"operator": "Concat", "inputs": [f"{part}.y"] * 2, "output": "z", "attributes": {"axis": 1}}
    )
    graphs[part]["output"] = "z"
    with pytest.raises(Misconfigured, match=part):
        OcrModel(
            rewritten(bundle, tmp_path / "other", json.dumps(graphs).encode(), golden=bundle.golden), CPU, "fp32"
        ).warm_up()


def test_a_bundle_without_golden_answers_or_with_others_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    assert bundle.golden is not None
    OcrModel(rewritten(bundle, tmp_path / "whole", golden=bundle.golden), CPU, "fp32").warm_up()
    with pytest.raises(Misconfigured):
        OcrModel(rewritten(bundle, tmp_path / "without", golden=None), CPU, "fp32").warm_up()
    other = replace(bundle.golden, captions=("other",))
    with pytest.raises(Broken):
        OcrModel(rewritten(bundle, tmp_path / "other", golden=other), CPU, "fp32").warm_up()
