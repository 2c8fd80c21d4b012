"""Odd but valid images get the tags of their content."""

import numpy as np
import pytest
from PIL import Image

from tests.chaos.account import Account
from tests.chaos.shared_worker import SharedWorker
from tests.support.images import encoded, noise
from tests.unit.models.photographs import SKIMAGE

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


with Image.open(SKIMAGE / "chelsea.png") as _opened:
    CAT = _opened.convert("RGB")
GREY_CAT = CAT.convert("L")
CAT_OF_256_COLOURS = CAT.convert("P", palette=Image.Palette.ADAPTIVE)
GHOST_OF_A_CAT = CAT.copy()
GHOST_OF_A_CAT.putalpha(Image.linear_gradient("L").resize(CAT.size))


@pytest.mark.parametrize(
    ("key", "body", "plain"),
    [
        pytest.param("wrong.jpg", encoded(CAT, "png"), CAT, id="wrong extension"),
        pytest.param(
            "animated.gif",
            encoded(CAT_OF_256_COLOURS, "gif", save_all=True, append_images=[noise(*CAT.size, n) for n in range(2)]),
            CAT_OF_256_COLOURS.convert("RGB"),
            id="animated",
        ),
        pytest.param("cmyk.jpg", encoded(CAT.convert("CMYK"), "jpeg", quality=100, subsampling=0), CAT, id="CMYK"),
        pytest.param(
            "grey16.png",
            encoded(Image.fromarray(np.asarray(GREY_CAT, np.uint16) * 257), "png"),
            GREY_CAT.convert("RGB"),
            id="16-bit",
        ),
        pytest.param(
            "palette.png", encoded(CAT_OF_256_COLOURS, "png"), CAT_OF_256_COLOURS.convert("RGB"), id="palette"
        ),
        pytest.param("alpha.png", encoded(GHOST_OF_A_CAT, "png"), CAT, id="alpha"),
    ],
)
def test_an_image_that_is_odd_and_sound(
    shared: SharedWorker, account: Account, key: str, body: bytes, plain: Image.Image
) -> None:
    """Guard: the bytes decide the format, and every mode is converted to RGB by rule."""
    bodies = {key: body, f"plain-{key}.png": encoded(plain, "png")}
    for name, content in bodies.items():
        shared.site.upload(name, content)
    records = shared.send([(shared.site.own(name), ()) for name in bodies], b"p")
    account.landed()
    found = shared.settle(account, records)
    scores = {image.source.key: {tag.name: tag.score for tag in image.tags} for image in found.images}
    odd, seen = scores[key], scores[f"plain-{key}.png"]
    assert any("cat" in name for name in seen)
    assert odd == pytest.approx(seen, abs=0.02)
