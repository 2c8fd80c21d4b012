"""The demo's picture with writing, and the role that reads it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tagstream_testing.local.demo_retag import tagstream
from tagstream_testing.local.photos import Photograph
from tagstream_testing.local.programs import ocr_wheel
from tagstream_testing.local.stack import LocalStack

LINES = ("Lighthouse Tea Room", "closed on Tuesdays")
KEY = "drawn/sign.png"
SEARCHED = "ocr:Tuesdays"


def reading(stack: LocalStack) -> dict[str, str]:
    """Settings for a worker that reads text; empty without rapidocr's wheel."""
    wheel = ocr_wheel()
    if wheel is None or find_spec("tagstream_ocr") is None:
        return {}
    bundle = stack.scratch.path / "ocr"
    tagstream(stack.scratch.path, stack.environment(), "models", "import", str(wheel), "-o", str(bundle))
    return {"TAGSTREAM_ROLES": f"ocr={bundle}", "TAGSTREAM_WANT": "tags,caption,ocr"}


def sign(folder: Path) -> Photograph:
    """A drawn picture with these lines."""
    image = Image.new("RGB", (640, 240), "#1d3b53")
    for number, line in enumerate(LINES):
        ImageDraw.Draw(image).text((40, 40 + 90 * number), line, "#f5efe0", ImageFont.load_default(52))
    path = folder / "sign.png"
    image.save(path)
    return Photograph(KEY, path)
