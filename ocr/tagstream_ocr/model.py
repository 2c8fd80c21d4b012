"""The model of a bundle of the kind `pp-ocr`: three networks around `reading.read`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from schemas.text import first_fault
from tagstream_ocr import WrittenText
from tagstream_ocr.graph import Graph, Network
from tagstream_ocr.reading import TRANSFORM, Networks, Read, read
from workers.errors import Broken, Misconfigured
from workers.models.bundle import Bundle, Golden
from workers.models.device import Device, Precision, normaliser
from workers.models.files import content_of
from workers.models.precision import check_golden
from workers.types import ImageAbout, Pixels, Transform

GRAPHS: Final = "graphs.json"
_BLOCK: Final = 32
"""Pixels of a side over which an answer keeps the mean of the detector's map."""
_SURELY_TURNED: Final = 0.9
_WORDS: Final = "words\nin pictures\nread and found"


class Graphs(BaseModel):
    """The content of graphs.json. Pixels are normalised, (n, 3, height, width): blue, green, red."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    detect: Graph
    """To (n, 1, height, width): the probability of text, by pixel. Sides are multiples of 32."""
    recognise: Graph
    """Of 48 rows, to (n, width / 8, 1 + labels): probabilities, that of no character first."""
    upright: Graph
    """Of 48 rows and 192 columns, to (n, 2): probabilities of upright and upside down."""


class OcrAnswer(NamedTuple):
    """One image's answer; `row` has means of the detector's map by block, then of the lines' scores."""

    found: WrittenText
    row: NDArray[np.float32]


class OcrModel:
    """Reads the text of images, one by one. Raises Misconfigured: the bundle does not fit, or int8."""

    def __init__(self, bundle: Bundle, device: Device, precision: Precision) -> None:
        self.transform: Transform = bundle.transform
        side = self.transform.size
        if self.transform != replace(TRANSFORM, size=side) or side % _BLOCK or side > TRANSFORM.size:
            raise Misconfigured(f"{bundle.folder}: the transform is not {TRANSFORM}, or smaller by whole blocks.")
        if precision == "int8":
            raise Misconfigured(f"{bundle.name} has convolutions, which int8 does not cover; choose bf16 or fp32.")
        self.name, self.digest, self.precision = bundle.name, bundle.digest, str(precision)
        self.random_weights: bool = bundle.manifest.provenance.random
        self._precision, self._device, self._golden = precision, device, bundle.golden
        self._characters = ("", *bundle.labels)
        dtype = device.dtype(precision)
        self._normalise = normaliser(bundle.manifest.mean, bundle.manifest.std, device, dtype)
        graphs, tensors = _graphs(bundle), bundle.weights()
        self._detector, self._recogniser, self._judge = (
            Network(f"{bundle.folder}: {part}", graph, tensors, device.where, dtype) for part, graph in graphs
        )

    @property
    def max_batch(self) -> int:
        """1, whatever is set: a dense page takes seconds, and images gain nothing from company."""
        return 1

    @max_batch.setter
    def max_batch(self, _: int) -> None: ...

    def warm_up(self) -> None:
        with self._device.run():
            self._detector.require((1, 3, 64, 64), (1, 1, 64, 64))
            self._recogniser.require((1, 3, 48, 80), (1, 10, len(self._characters)))
            self._judge.require((1, 3, 48, 192), (1, 2))
        self.check_self_test(*self.forward([self.self_test_image()], [ImageAbout.of(self.self_test_image())]))

    def self_test_image(self) -> Pixels:
        return np.asarray(self._known.pixels[0])

    def check_self_test(self, answer: OcrAnswer) -> None:
        """Compare the answer with the golden one. Raises Broken: another text, or numbers too far off."""
        check_golden(self.name, self._precision, self._known.outputs[0], answer.row)
        if answer.found.text != self._known.captions[0]:
            raise Broken(
                f"{self.name} in {self.precision} reads {answer.found.text[:100]!r} in its golden image instead of "
                f"{self._known.captions[0][:100]!r}: damaged weights, or a device that computes wrongly."
            )

    def forward(self, images: Sequence[Pixels], about: Sequence[ImageAbout]) -> Sequence[OcrAnswer]:
        """One answer an image. Raises ValueError: not a number among the recogniser's (a broken device)."""
        with self._device.run():
            return [self._answer(image, facts) for image, facts in zip(images, about, strict=True)]

    def postprocess(self, raw: OcrAnswer) -> WrittenText:
        if not np.isfinite(raw.row).all():
            raise ValueError(f"{self.name}: not a number in the map of text")
        return raw.found

    @property
    def _known(self) -> Golden:
        if self._golden is None:
            raise Misconfigured(f"{self.name} has no golden answers; import the model again.")
        return self._golden

    def _answer(self, image: Pixels, about: ImageAbout) -> OcrAnswer:
        means = np.empty(0, np.float32)

        def detect(pixels: Pixels) -> NDArray[np.float32]:
            nonlocal means
            found: NDArray[np.float32] = self._output(self._detector, [pixels])[0, 0].cpu().numpy()
            rows, columns = (side // _BLOCK for side in found.shape)
            means = found.reshape(rows, _BLOCK, columns, _BLOCK).mean((1, 3)).ravel()
            return found

        found = read(image, about, Networks(detect, self.recognise, self.is_upside_down))
        score = np.mean([line.score for line in found.lines] or [0.0])
        return OcrAnswer(found, np.append(means, np.float32(score)))

    def recognise(self, strips: Pixels) -> list[Read]:
        """As `Networks.recognise`."""
        scores, ids = self._output(self._recogniser, list(strips)).max(2)
        return list(map(self._text, ids.cpu().numpy(), scores.cpu().numpy()))

    def is_upside_down(self, strips: Pixels) -> list[bool]:
        """As `Networks.is_upside_down`."""
        return [score > _SURELY_TURNED for score in self._output(self._judge, list(strips))[:, 1].tolist()]

    def _text(self, ids: NDArray[np.int64], scores: NDArray[np.float32]) -> Read:
        """Read one strip: a character goes on until another one, or none, is likelier."""
        if not np.isfinite(scores).all():
            raise ValueError(f"{self.name}: not a number among the characters' probabilities")
        begins = (ids != 0) & (ids != np.concatenate(([0], ids[:-1])))
        text = "".join(self._characters[number] for number in ids[begins])
        return text, float(scores[begins].mean()) if text else 0.0

    def _output(self, network: Network, images: Sequence[Pixels]) -> Tensor:
        """In fp32, on the device."""
        return network(self._normalise(self._device.upload(images).flip(1))).float()


def golden_answers(model: OcrModel) -> Golden:
    """Make a page of words, with this model's answer."""
    side = model.transform.size
    page = Image.new("RGB", (side, side), "white")
    font = ImageFont.load_default(side // 12)
    ImageDraw.Draw(page).multiline_text((side // 16, side // 8), _WORDS, "black", font, spacing=side // 12)
    pixels = np.asarray(page)
    (answer,) = model.forward([pixels], [ImageAbout.of(pixels)])
    return Golden(pixels[None], answer.row[None], ("",), (answer.found.text,))


def _graphs(bundle: Bundle) -> Graphs:
    path = bundle.folder / GRAPHS
    try:
        return Graphs.model_validate_json(content_of(path, 4 * 1024**2))
    except OSError as error:
        raise Misconfigured(f"{path} can't be read: {error.strerror}.") from None
    except ValidationError as error:
        raise Misconfigured(f"{path} holds no networks of ours ({first_fault(error)}).") from None
