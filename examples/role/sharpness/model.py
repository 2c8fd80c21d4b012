"""The model, by numpy. `python -m sharpness.model FOLDER` makes its bundle."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharpness import Sharpness
from workers.errors import Broken
from workers.intake.geometry import within
from workers.models.bundle import Bundle
from workers.models.manifest import Manifest, Provenance
from workers.models.tagger import sample_image
from workers.types import ImageAbout, Pixels, Transform


class SharpnessModel:
    """The standard deviation of an image's second differences, in grey levels."""

    precision, random_weights, max_batch = "fp32", False, 64

    def __init__(self, bundle: Bundle) -> None:
        self.name, self.digest, self.transform = bundle.name, bundle.digest, bundle.transform
        self._limits: Mapping[str, Any] = bundle.manifest.options

    def forward(self, images: Sequence[Pixels], about: Sequence[ImageAbout]) -> list[np.float32]:
        return [self._deviation(*each) for each in zip(images, about, strict=True)]

    def _deviation(self, image: Pixels, about: ImageAbout) -> np.float32:
        width, height = within(self.transform, (about.width, about.height))  # "pad" leaves the rest black
        grey = image[:height, :width].mean(axis=2)
        inner = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
        return np.float32(inner.std() if inner.size else 0)

    def postprocess(self, raw: np.float32) -> Sharpness:
        if not np.isfinite(raw):
            raise ValueError(f"{self.name}: {raw}")
        word = next((word for word in ("sharp", "soft") if raw >= self._limits[word]), "blurred")
        return Sharpness.model_validate({"text": word, "score": round(float(raw), 1)})

    def self_test_image(self) -> Pixels:
        return sample_image(self.transform.size)

    def warm_up(self) -> None:
        image = self.self_test_image()
        (self._right,) = self.forward([image], [ImageAbout("png", *image.shape[:2])])

    def check_self_test(self, answer: np.float32) -> None:
        if answer != self._right:
            raise Broken(f"{self.name}: the self-test image has the sharpness {answer}, and had {self._right}.")


def make_bundle(folder: Path, sharp: float = 15) -> Bundle:
    manifest = Manifest(
        kind="sharpness",
        name="sharpness",
        provenance=Provenance(source="tagstream's examples", licence="Apache-2.0"),
        transform=Transform(512, "pad"),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        options={"sharp": sharp, "soft": 5},
    )
    return Bundle.write(folder, manifest, weights={})


if __name__ == "__main__":
    make_bundle(Path(sys.argv[1]))
