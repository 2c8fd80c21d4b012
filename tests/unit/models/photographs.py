"""Photographs from the wheels of scikit-image and scikit-learn, as the compact model's transform leaves them."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from workers.types import Pixels


def _inside(package: str, *folders: str) -> Path:
    """A folder of an installed package, which is not imported for that: it would take a second."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.joinpath(*folders)


SKIMAGE = _inside("skimage", "data")
SKLEARN = _inside("sklearn", "datasets", "images")


def photograph(name: str, side: int = 224, shorter: int = 256) -> Pixels:
    path = next(folder / name for folder in (SKIMAGE, SKLEARN) if (folder / name).exists())
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = shorter / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))
