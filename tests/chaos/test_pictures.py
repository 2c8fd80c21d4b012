"""Pictures that are broken, huge or odd: the odd ones are tagged, the others cost nobody but themselves."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.chaos.account import Account
from tests.chaos.line import Given, SharedLine
from tests.integration.worker_process import photo
from tests.unit.intake.pictures import encoded, grey16, noise, png_bomb, png_claiming, ramp

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


def send(line: SharedLine, key: str, body: bytes) -> list[tuple[int, int, int]]:
    """The picture between two healthy ones, in one partition."""
    for number in range(2):
        line.site.upload(f"sound-{number}.jpg", photo(5_000 + number))
    line.site.upload(key, body)
    given: list[Given] = [(line.site.own(name), ()) for name in ("sound-0.jpg", key, "sound-1.jpg")]
    return line.send(given, b"p")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(photo(1)[:300], "broken-image", id="truncated"),
        pytest.param(b"not a picture at all", "not-an-image", id="no picture"),
        pytest.param(png_bomb(20_000, 20_000), "too-many-pixels", id="decompression bomb"),
        pytest.param(png_claiming(60_000, 60_000), "too-many-pixels", id="enormous dimensions in a tiny file"),
        pytest.param(encoded(ramp(1, 1), "png"), "too-small", id="1x1"),
    ],
)
def test_a_picture_that_is(line: SharedLine, account: Account, body: bytes, reason: str) -> None:
    """Guard: limits are read from the header before anything is decoded, and a decoder's error is the picture's own."""
    records = send(line, "bad.jpg", body)
    account.landed()
    found = line.settle(account, records, letters=1)
    assert found.reasons == [reason]
    assert found.keys == ["sound-0.jpg", "sound-1.jpg"]


_FRAMES = [noise(32, 32, seed) for seed in range(3)]


@pytest.mark.parametrize(
    ("key", "body"),
    [
        pytest.param("wrong.jpg", encoded(ramp(), "png"), id="wrong extension"),
        pytest.param(
            "animated.gif", encoded(_FRAMES[0], "gif", save_all=True, append_images=_FRAMES[1:]), id="animated"
        ),
        pytest.param("cmyk.jpg", encoded(ramp().convert("CMYK"), "jpeg"), id="CMYK"),
        pytest.param("grey16.png", encoded(grey16([0, 20_000, 65_535]), "png"), id="16-bit"),
        pytest.param("palette.png", encoded(ramp().convert("P", palette=Image.Palette.ADAPTIVE), "png"), id="palette"),
        pytest.param("alpha.png", encoded(ramp().convert("RGBA"), "png"), id="alpha"),
    ],
)
def test_a_picture_that_is_odd_and_sound(line: SharedLine, account: Account, key: str, body: bytes) -> None:
    """Guard: the format is read from the bytes, and every mode is brought to RGB by rule."""
    records = send(line, key, body)
    account.landed()
    assert key in line.settle(account, records).keys
