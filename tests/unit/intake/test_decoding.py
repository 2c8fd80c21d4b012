"""Header and pixels in one process: the counted memory of a decode, and when an image may be blamed."""

from dataclasses import replace

import pytest
from PIL import Image, ImageFile

from tests.support.images import encoded, ramp
from workers.errors import Broken, Rejected
from workers.intake.decoding import Decoding
from workers.intake.hashes import HASH_BYTES
from workers.intake.limits import Limits
from workers.intake.transform import transform_bytes
from workers.types import Transform

LIMITS = Limits(max_pixels=5_000)
SMALL, TURNED = Transform(8), Transform(16, exif_transpose=True)
PNG = encoded(ramp(40, 30), "png")
CUT = PNG[:-40]


@pytest.fixture(autouse=True)
def _pillows_own_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that lets nothing through, before a Decoding sets its own."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)


@pytest.fixture
def broken_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image can be decoded any more, the known good ones neither."""

    def fail(*_: object) -> None:
        raise OSError("the codec is gone")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)


def test_a_decode_is_counted_with_its_transforms_and_with_the_turned_image_only_where_one_is_turned() -> None:
    size = (40, 30)
    decoding = Decoding([SMALL, TURNED, SMALL], LIMITS)
    header = decoding.inspect(PNG)
    assert (header.format, header.width, header.height) == ("png", 40, 30)
    plain = header.decode_bytes
    assert decoding.decode_bytes(header, []) == plain
    assert decoding.decode_bytes(header, [SMALL]) == plain + transform_bytes([SMALL], size)
    both = plain + transform_bytes([SMALL, TURNED], size) + 4 * 40 * 30
    assert decoding.decode_bytes(header) == decoding.decode_bytes(header, [SMALL, TURNED]) == both


def test_the_limit_holds_for_all_counted_memory() -> None:
    header = Decoding([], LIMITS).inspect(PNG)
    needed = Decoding([SMALL, TURNED], LIMITS).decode_bytes(header)
    assert Decoding([SMALL, TURNED], replace(LIMITS, decode_bytes=needed)).decode_bytes(header) == needed
    with pytest.raises(Rejected) as caught:
        Decoding([SMALL, TURNED], replace(LIMITS, decode_bytes=needed - 1)).decode_bytes(header)
    assert caught.value.reason == "decode-memory"


def test_the_hashes_count_for_the_memory_where_facts_are_told() -> None:
    header = Decoding([], LIMITS).inspect(PNG)
    told = Decoding([SMALL], replace(LIMITS, facts="on")).decode_bytes(header)
    assert told == Decoding([SMALL], LIMITS).decode_bytes(header) + HASH_BYTES


def test_an_image_is_decoded_once_for_each_transform_or_unchanged() -> None:
    decoding = Decoding([SMALL, TURNED, SMALL], LIMITS)
    decoded = decoding.decode(PNG, "png")
    assert {each: pixels.shape for each, pixels in decoded.pixels.items()} == {SMALL: (8, 8, 3), TURNED: (16, 16, 3)}
    assert set(decoding.decode(PNG, "png", [TURNED]).pixels) == {TURNED}
    assert decoding.load_rgb(PNG, "png").tobytes() == ramp(40, 30).tobytes()


def test_a_broken_image_is_rejected_where_a_good_one_can_be_decoded() -> None:
    decoding = Decoding([SMALL], LIMITS)
    for decode in (decoding.decode, decoding.load_rgb):
        with pytest.raises(Rejected) as caught:
            decode(CUT, "png")
        assert caught.value.reason == "broken-image"
    with pytest.raises(Rejected):
        decoding.inspect(PNG[:20])


@pytest.mark.usefixtures("broken_codec")
def test_no_image_is_blamed_where_a_good_one_can_not_be_decoded_either() -> None:
    decoding = Decoding([SMALL], LIMITS)
    for decode in (decoding.decode, decoding.load_rgb):
        with pytest.raises(Broken, match="png decoder"):
            decode(CUT, "png")
    with pytest.raises(Broken, match="png decoder"):
        decoding.inspect(PNG[:20])


@pytest.mark.usefixtures("broken_codec")
def test_a_verdict_by_a_limit_needs_no_decoder() -> None:
    with pytest.raises(Rejected) as caught:
        Decoding([SMALL], LIMITS).inspect(encoded(ramp(100, 60), "png"))
    assert caught.value.reason == "too-many-pixels"
    assert LIMITS.max_pixels == Image.MAX_IMAGE_PIXELS, "Pillow has our bound"


def test_a_check_is_of_the_named_format_or_of_all(broken_codec: None) -> None:
    decoding = Decoding([SMALL], replace(LIMITS, formats=("jpeg", "png")))
    with pytest.raises(Broken, match="png decoder"):
        decoding.check("png")
    with pytest.raises(Broken, match="jpeg decoder"):
        decoding.check(None)


def test_a_check_of_decoders_that_work_says_nothing() -> None:
    Decoding([SMALL], LIMITS).check(None)
