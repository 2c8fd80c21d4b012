"""Images that are broken, huge or odd: the odd ones are tagged, the others cost only themselves."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.chaos.account import Account
from tests.chaos.shared_worker import Given, SharedWorker
from tests.support.images import encoded, noise, png_bomb, png_claiming, ramp
from tests.support.worker_process import photo
from tests.unit.models.photographs import SKIMAGE

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


def send(shared: SharedWorker, key: str, body: bytes) -> list[tuple[int, int, int]]:
    """The image between two healthy ones, in one partition."""
    for number in range(2):
        shared.site.upload(f"sound-{number}.jpg", photo(5_000 + number))
    shared.site.upload(key, body)
    given: list[Given] = [(shared.site.own(name), ()) for name in ("sound-0.jpg", key, "sound-1.jpg")]
    return shared.send(given, b"p")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(photo(1)[:300], "broken-image", id="truncated"),
        pytest.param(b"not an image at all", "not-an-image", id="no image"),
        pytest.param(png_bomb(20_000, 20_000), "too-many-pixels", id="decompression bomb"),
        pytest.param(png_claiming(60_000, 60_000), "too-many-pixels", id="enormous dimensions in a tiny file"),
        pytest.param(encoded(ramp(1, 1), "png"), "too-small", id="1x1"),
    ],
)
def test_an_image_that_is(shared: SharedWorker, account: Account, body: bytes, reason: str) -> None:
    """Guards: limits are read from the header before anything is decoded (that on pixels twice: by us, and by Pillow at
    our bound), what is none is known by its first bytes, and a decoder's error is the image's own."""
    records = send(shared, "bad.jpg", body)
    account.landed()
    found = shared.settle(account, records, letters=1)
    assert found.reasons == [reason]
    assert found.keys == ["sound-0.jpg", "sound-1.jpg"]


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
    """Guard: the format is read from the bytes, and every mode is brought to RGB by rule. Without the first it is
    dead-lettered, without the second it makes the model fail, or is tagged for what is not in it."""
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
