"""In its sandbox a decoder reads all formats: nothing is imported or opened at the first odd image."""

import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from tagstream_testing.memory import MemoryObjectStore
from tests.contract.test_intake import job
from tests.support.images import encoded, noise
from tests.support.inline_intake import InlineIntake
from tests.unit.intake.deadly import LARGEST
from workers.errors import Rejected
from workers.intake import Limits, ProcessIntake
from workers.ports import Intake
from workers.types import Transform

pytestmark = pytest.mark.slow

TRANSFORMS = (Transform(32), Transform(24, "crop", 28, "bicubic", exif_transpose=True))
PHOTO = noise(640, 360)


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[274], made[305], made[270] = orientation, "a camera", "\N{GREEK SMALL LETTER ALPHA}" * 9
    return made.tobytes()


def text() -> PngImagePlugin.PngInfo:
    made = PngImagePlugin.PngInfo()
    made.add_text("comment", "x" * 5000, zip=True)
    made.add_itxt("comment", "\N{GREEK SMALL LETTER ALPHA}" * 100, "el", "\N{GREEK SMALL LETTER ALPHA}")
    return made


def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def as_tiff(mode: str, **options: object) -> bytes:
    source = PHOTO.convert("RGB").convert("LAB") if mode == "LAB" else PHOTO.convert(mode)
    return encoded(source, "tiff", **options)


GREY16 = Image.fromarray(np.asarray(PHOTO.convert("L"), np.uint16) * 257)
FRAMES = {"save_all": True, "append_images": [noise(640, 360, 5), noise(640, 360, 6)]}
IMAGES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(PHOTO, "jpeg"),
    "jpeg progressive, of many pixels": lambda: encoded(noise(2400, 1600), "jpeg", progressive=True, quality=95),
    "jpeg CMYK": lambda: encoded(PHOTO.convert("CMYK"), "jpeg"),
    "jpeg grey": lambda: encoded(PHOTO.convert("L"), "jpeg"),
    "jpeg turned, with a profile": lambda: encoded(PHOTO, "jpeg", exif=exif(6), icc_profile=profile(), comment="it"),
    "jpeg of several (MPO)": lambda: encoded(PHOTO, "mpo", **FRAMES),
    "png": lambda: encoded(PHOTO, "png"),
    "png palette": lambda: encoded(PHOTO.convert("P"), "png", transparency=3),
    "png with alpha, turned": lambda: encoded(PHOTO.convert("RGBA"), "png", exif=exif(5)),
    "png 16 bits": lambda: encoded(GREY16, "png"),
    "png bilevel": lambda: encoded(PHOTO.convert("1"), "png"),
    "png with text and a profile": lambda: encoded(PHOTO, "png", pnginfo=text(), icc_profile=profile()),
    "png animated": lambda: encoded(PHOTO, "png", **FRAMES),
    "webp": lambda: encoded(PHOTO, "webp"),
    "webp of many pixels": lambda: encoded(noise(2400, 1600), "webp"),
    "webp lossless with alpha, turned": lambda: encoded(PHOTO.convert("RGBA"), "webp", lossless=True, exif=exif(8)),
    "webp animated": lambda: encoded(PHOTO, "webp", **FRAMES),
    "gif": lambda: encoded(PHOTO, "gif"),
    "gif animated": lambda: encoded(PHOTO, "gif", **FRAMES, transparency=0, disposal=2),
    "bmp": lambda: encoded(PHOTO, "bmp"),
    "bmp palette": lambda: encoded(PHOTO.convert("P"), "bmp"),
    "tiff": lambda: as_tiff("RGB"),
    "tiff tiff_lzw": lambda: as_tiff("RGB", compression="tiff_lzw"),
    "tiff tiff_adobe_deflate": lambda: as_tiff("RGB", compression="tiff_adobe_deflate"),
    "tiff jpeg": lambda: as_tiff("RGB", compression="jpeg"),
    "tiff fax": lambda: as_tiff("1", compression="group4"),
    "tiff CMYK": lambda: as_tiff("CMYK"),
    "tiff LAB": lambda: as_tiff("LAB"),
    "tiff float": lambda: as_tiff("F"),
    "tiff turned": lambda: as_tiff("RGB", exif=exif(3)),
    "avif": lambda: encoded(PHOTO, "avif"),
    "avif of many pixels": lambda: encoded(noise(2000, 1200), "avif", speed=10),
    "avif with alpha, turned": lambda: encoded(PHOTO.convert("RGBA"), "avif", exif=exif(6)),
    "avif animated": lambda: encoded(PHOTO, "avif", **FRAMES),
    "no image": lambda: b"hello",
    "cut off": lambda: encoded(PHOTO, "jpeg")[:5000],
    "cut off in its text": lambda: encoded(PHOTO, "png", pnginfo=text())[:150],
    "heic": lambda: b"\0\0\0\x18ftypheic" + bytes(200),
}


@pytest.fixture(scope="module")
def store() -> MemoryObjectStore:
    store = MemoryObjectStore()
    for name, make in IMAGES.items():
        store.put("photos", name, make())
    return store


def be_an_ordinary_user() -> None:
    """As in a container that does not run as root: only then do limits of processes and threads count."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


@pytest.fixture(
    scope="module",
    params=[(None, 0.0), (be_an_ordinary_user, 3.0)],
    ids=["as we are", "as an ordinary user, JPEGs scaled"],
)
def intakes(store: MemoryObjectStore, request: pytest.FixtureRequest) -> Iterator[tuple[Intake, Intake]]:
    prepare, gap = request.param
    limits = Limits(facts="place")
    made = (
        InlineIntake(store, TRANSFORMS, limits, reducing_gap=gap),
        ProcessIntake(store, TRANSFORMS, limits, children=1, reducing_gap=gap, prepare=prepare),
    )
    yield made
    for intake in made:
        intake.close()


def outcome(intake: Intake, name: str) -> object:
    try:
        fetched = intake.fetch(job(name), LARGEST).result(30)
        facts = intake.inspect(fetched).result(30)
        image = intake.decode(fetched, facts).result(30)
    except Rejected as error:
        return error.stage, error.reason, error.detail[:200]
    return facts, [image.pixels[transform].tobytes() for transform in TRANSFORMS], image.facts


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_has_the_same_outcome_in_a_child(intakes: tuple[Intake, Intake], name: str) -> None:
    expected, found = (outcome(intake, name) for intake in intakes)
    assert found == expected
    if name not in ("no image", "cut off", "cut off in its text", "heic"):
        assert isinstance(expected, tuple)
        assert expected[-1].thumbhash, expected
