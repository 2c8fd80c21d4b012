"""The networks of the wheel read rendered pages."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from benchmarks.ocr_pages import Page, Reader, errors, in_order, matplotlib_fonts, page, photographed
from tagstream_ocr.wheel import import_wheel

pytestmark = pytest.mark.slow
FONTS = matplotlib_fonts()


@pytest.fixture(scope="module")
def reader(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    folder = tmp_path_factory.mktemp("bundles") / "ocr"
    import_wheel(wheel, folder, progress=lambda doing, done, total: None, replace_existing=False)
    return Reader(folder, "fp32")


def share_of_errors(reader: Reader, pages: list[Page]) -> float:
    wrong = sum(errors(page.lines, reader(page.image)[0]) for page in pages)
    return wrong / sum(len(line) for page in pages for line in page.lines)


@pytest.mark.parametrize("first", range(1_000, 1_030, 6))
def test_of_clean_pages_at_most_two_percent_are_misread(reader: Reader, first: int) -> None:
    assert share_of_errors(reader, [page(seed, FONTS) for seed in range(first, first + 6)]) <= 0.02


def test_of_pages_as_photographed_at_most_eight_percent_are_misread(reader: Reader) -> None:
    assert share_of_errors(reader, [photographed(page(seed, FONTS), seed) for seed in range(2_000, 2_010)]) <= 0.08


@pytest.mark.parametrize("seed", range(3_000, 3_006))
def test_columns_are_read_one_after_the_other(reader: Reader, seed: int) -> None:
    given = page(seed, FONTS, columns=2 + seed % 2)
    lines, _ = reader(given.image)
    assert in_order(given.lines, lines)
    assert errors(given.lines, lines) <= 0.05 * sum(map(len, given.lines))


def test_han_is_read(reader: Reader) -> None:
    image = Image.open(Path(__file__).with_name("han.png")).convert("RGB")
    assert reader(image)[0] == ["欢迎光临上海市历史博物馆", "营业时间上午九点", "小心地滑禁止停车"]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_page_is_read(reader: Reader, degrees: int) -> None:
    given = page(4_000, FONTS)
    lines, _ = reader(given.image.rotate(degrees, expand=True))
    assert in_order(given.lines, lines)
    assert errors(given.lines, lines) <= 0.02 * sum(map(len, given.lines))


def sign(text: str, size: int, width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height), (190, 30, 30))
    font = ImageFont.truetype(FONTS[0], size)
    ImageDraw.Draw(image).text((width / 2, height / 2), text, "white", font, anchor="mm")
    return image


@pytest.mark.parametrize(
    ("text", "size", "width"), [("EXIT", 300, 960), ("STOP", 330, 1400), ("O P E N", 250, 1400), ("Bakery", 220, 960)]
)
def test_a_large_sign_is_one_line(reader: Reader, text: str, size: int, width: int) -> None:
    assert reader(sign(text, size, width, 500))[0] in ([text], [text.replace(" ", "")])


def test_noise_stripes_and_blank_pages_have_no_lines(reader: Reader) -> None:
    rng = np.random.default_rng(1)
    stripes = np.zeros((960, 960, 3), np.uint8)
    stripes[:, ::8] = stripes[:, 1::8] = 255
    for pixels in (
        rng.integers(0, 256, (960, 960, 3), np.uint8),
        stripes,
        stripes[:30],
        np.full((30, 2_000, 3), 255, np.uint8),
    ):
        assert not reader(Image.fromarray(pixels))[0]


def test_a_dense_page_is_cut(reader: Reader) -> None:
    image = Image.new("RGB", (960, 960), "white")
    line = " ".join(["a dense page of small letters that goes on and on"] * 3)
    for row in range(66):
        ImageDraw.Draw(image).text((5, 10 + 14 * row), line, "black", ImageFont.truetype(FONTS[3], 11))
    assert 20 < len(reader(image)[0]) < 66
