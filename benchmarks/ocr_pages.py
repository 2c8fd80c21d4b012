"""The text of rendered pages and of photographs, beside rapidocr 3.10.0: errors and processor time, image by image.

    uv venv OTHER && uv pip install --python OTHER/bin/python rapidocr==3.10.0 onnxruntime \
        paperang-p2-fonts-cjk font-roboto font-caladea font-source-serif-pro
    python -m benchmarks ocr_pages BUNDLE OTHER            # pages: clean, as photographed, turned, in columns
    python -m benchmarks ocr_pages BUNDLE OTHER PHOTOS     # photographs of a folder in which one finds text

`PAGES` is the number of clean pages (450), and of a ninth of it for each other sort; `PRECISION` is fp32 or bf16. Fonts
are those of Matplotlib and of the packages in OTHER. An error is a character to insert, take out or change; a true line
is compared with the most similar one that was read. Both programs have one thread; a third column is rapidocr with its
own settings, of which idle threads spin.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from rich.console import Console
from rich.table import Table

from tagstream_ocr.model import OcrModel
from workers.intake.transform import apply
from workers.models.bundle import Bundle
from workers.models.device import Precision, choose_device
from workers.types import ImageAbout

Lines: TypeAlias = Sequence[str]
Read: TypeAlias = Callable[[Image.Image], tuple[Lines, float]]
"""Of an image the lines, and seconds of processor time."""

WORDS: Final = {
    "en": "the quick parcel arrives before noon when weather allows please keep this receipt for your records total "
    "amount due within thirty days opening hours entrance through garden mind step fresh bread daily library closed",
    "de": "Straße gesperrt wegen Bauarbeiten Größe grün Öffnungszeiten täglich Überweisung fällig März für Gäste "
    "Schlüssel zurück Bäckerei Fußgänger müssen außen gehen heißes Wasser Übung jährlich schön Äpfel süß Tür",
    "fr": "défense entrée sortie élève forêt été où ça naïve Noël cœur français déjà prêt hôtel réservé château "
    "garçon réduit après midi fenêtre théâtre musée gâteau crème brûlée août même très bientôt",
    "es": "señal niño mañana corazón también aquí está prohibido año lápiz canción después jamón montaña teléfono "
    "España acción árbol público miércoles sábado cigüeña pingüino número",
    "pl": "zażółć gęślą jaźń świeży chleb wejście łódź źródło dzień mężczyzna środa piątek ósma część godzina ulica "
    "książka żółty ćma śnieg",
    "cs": "příliš žluťoučký kůň úpěl ďábelské ódy vchod čerstvý chléb střed pátek šest řeka město náměstí dveře "
    "zavřeno účet děkujeme",
    "zh": "请勿 吸烟 欢迎 光临 北京 图书馆 出口 在 左边 每天 上午 九点 开门 今日 特价 商品 电话 地址 上海市 公园 学校 "
    "医院 火车站 中国 人民 银行 安全 小心 地滑 禁止 停车 营业 时间 餐厅 茶 咖啡 水果 新鲜 服务 中心 大学 历史 博物馆",
}
COLOURS: Final = (
    ((20, 20, 20), (250, 250, 246)),
    ((30, 40, 110), (236, 232, 220)),
    ((245, 245, 240), (40, 70, 60)),
)
"""Ink and paper."""


@dataclass(frozen=True)
class Page:
    """A picture, and the lines in it in reading order."""

    image: Image.Image
    lines: Lines


def matplotlib_fonts() -> Sequence[Path]:
    """Upright and slanted faces with all Latin accents, which every checkout has."""
    found = find_spec("matplotlib")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "mpl-data/fonts/ttf"
    return [*sorted(folder.glob("DejaVuS*[!y].ttf")), folder / "STIXGeneral.ttf", folder / "STIXGeneralBol.ttf"]


def sentence(draw: random.Random, language: str, longest: int) -> str:
    """Words, with a price or a date now and then, of at most `longest` characters."""
    words = WORDS[language].split()
    text, gap = draw.choice(words).capitalize(), "" if language == "zh" else " "
    while len(text) < longest * 0.6:
        kind = draw.random()
        if kind < 0.06:
            more = f"{draw.randrange(1, 2000)},{draw.randrange(100):02} €"
        elif kind < 0.12:
            more = f"{draw.randrange(1, 29)}.{draw.randrange(1, 13)}.20{draw.randrange(10, 30)}"
        else:
            more = draw.choice(words)
        if len(text) + len(more) >= longest:
            break
        text += gap + more
    return text


def page(seed: int, fonts: Sequence[Path], han: Path | None = None, columns: int = 1) -> Page:
    """Render a page: everything about it is drawn by its seed."""
    draw = random.Random(seed)
    language = draw.choice(list(WORDS))
    if language == "zh" and han is None:
        language = "en"
    size = draw.choice((18, 20, 24, 28, 36, 48)) if columns == 1 else draw.choice((16, 18, 20))
    path = han if language == "zh" and han else draw.choice(fonts)
    font = ImageFont.truetype(path, size)
    count = draw.randrange(4, 15)
    longest = min(44, int(1100 / columns / (size * (1.0 if language == "zh" else 0.62))))
    texts = [[sentence(draw, language, longest) for _ in range(count)] for _ in range(columns)]
    column = max(font.getlength(text) for texts_of in texts for text in texts_of) + size * draw.uniform(1.5, 3)
    margin, step = draw.randrange(size, 3 * size), size * draw.uniform(1.35, 1.8)
    ink, paper = draw.choice(COLOURS)
    image = Image.new("RGB", (int(2 * margin + column * columns), int(2 * margin + step * count)), paper)
    canvas = ImageDraw.Draw(image)
    for number, texts_of in enumerate(texts):
        for row, text in enumerate(texts_of):
            canvas.text((margin + number * column, margin + row * step), text, ink, font)
    return Page(image, [text for texts_of in texts for text in texts_of])


def photographed(given: Page, seed: int) -> Page:
    """The page from an angle on a darker ground, in a shadow, with a sensor's noise, as a JPEG of quality 30."""
    draw = random.Random(seed)
    width, height = given.image.size
    edge = max(width, height) // 12
    wide, high = width + 2 * edge, height + 2 * edge

    def near(x: float, y: float) -> tuple[float, float]:
        return x + draw.uniform(-0.6, 0.6) * edge, y + draw.uniform(-0.6, 0.6) * edge

    corners = [near(edge, edge), near(edge + width, edge), near(edge + width, edge + height), near(edge, edge + height)]
    sources = [(0, 0), (width, 0), (width, height), (0, height)]
    rows = []
    for (x, y), (u, v) in zip(corners, sources, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    factors = np.linalg.solve(np.array(rows), np.array(sources, float).ravel())
    image = given.image.transform(
        (wide, high), Image.Transform.PERSPECTIVE, factors.tolist(), Image.Resampling.BICUBIC, fillcolor=(90, 80, 70)
    ).filter(ImageFilter.GaussianBlur(0.6))
    light = np.linspace(1, draw.uniform(0.45, 0.8), wide)[None, :, None]
    pixels = np.asarray(image) * (light if draw.random() < 0.5 else light[:, ::-1])
    pixels += np.random.default_rng(seed).normal(0, 10, pixels.shape)
    stored = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stored, "JPEG", quality=30)
    return Page(Image.open(stored).convert("RGB"), given.lines)


def distance(one: str, other: str) -> int:
    """Characters to insert, take out or change."""
    before = list(range(len(other) + 1))
    for i, x in enumerate(one, 1):
        now = [i]
        for j, y in enumerate(other, 1):
            now.append(min(before[j] + 1, now[-1] + 1, before[j - 1] + (x != y)))
        before = now
    return before[-1]


def errors(truth: Lines, read: Lines) -> int:
    """Wrong characters: each true line against the most similar of those left."""
    left = list(read)
    missed = []
    for line in truth:
        if line in left:
            left.remove(line)
        else:
            missed.append(line)
    total = 0
    for line in missed:
        best = min(left, key=lambda other: distance(line, other), default="")
        total += min(len(line), distance(line, best))
        if best and distance(line, best) < len(line):
            left.remove(best)
    return total


def in_order(truth: Lines, read: Lines) -> bool:
    """Whether lines were read in the true order, whatever their errors."""
    places = [min(range(len(truth)), key=lambda place: distance(line, truth[place])) for line in read]
    return places == sorted(places)


class Reader:
    """This project's reader, on one thread."""

    def __init__(self, bundle: Path, precision: Precision) -> None:
        self._model = OcrModel(Bundle.open(bundle), choose_device("cpu", threads=1), precision)
        self._model.warm_up()

    def __call__(self, image: Image.Image) -> tuple[Lines, float]:
        begun = time.process_time()
        about = ImageAbout("png", *image.size)
        (answer,) = self._model.forward([apply(self._model.transform, image)], [about])
        lines = [line.text for line in self._model.postprocess(answer).lines]
        return lines, time.process_time() - begun


OTHER: Final = """
import json, sys, time
import numpy as np
from PIL import Image
from rapidocr import RapidOCR
threads = {"EngineConfig.onnxruntime.intra_op_num_threads": 1} if sys.argv[1] == "1" else {}
read = RapidOCR(params={"Global.log_level": "error", **threads})
for path in sys.stdin:
    pixels = np.asarray(Image.open(path.strip()).convert("RGB"))[:, :, ::-1]
    begun = time.process_time()
    found = read(pixels)
    print(json.dumps([list(found.txts or ()), time.process_time() - begun]), flush=True)
"""


@contextmanager
def other_reader(python: Path, threads: str, folder: Path) -> Iterator[Read]:
    """Rapidocr in a process of its own environment. `threads`: 1, or "own" for what it takes by itself."""
    with subprocess.Popen([python, "-c", OTHER, threads], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        into, out, path = process.stdin, process.stdout, folder / f"{threads}.png"

        def read(image: Image.Image) -> tuple[Lines, float]:
            image.save(path, compress_level=1)
            into.write(f"{path}\n".encode())
            into.flush()
            lines, seconds = json.loads(out.readline())
            return lines, seconds

        yield read
        into.close()


@dataclass
class Score:
    """What one reader did with one sort of pages."""

    seconds: list[float] = field(default_factory=list)
    errors: int = 0
    characters: int = 0
    in_order: int = 0

    def add(self, page: Page, lines: Lines, seconds: float) -> None:
        self.seconds.append(seconds)
        self.errors += errors(page.lines, lines)
        self.characters += sum(map(len, page.lines))
        self.in_order += in_order(page.lines, lines)

    def cells(self) -> tuple[str, ...]:
        share = 100 * self.errors / self.characters
        return f"{share:.2f} %", f"{self.in_order} of {len(self.seconds)}", f"{np.mean(self.seconds):.2f} s"


class Fonts(NamedTuple):
    """Faces for Latin, and one for Han."""

    latin: Sequence[Path]
    han: Path


def installed_fonts(environment: Path) -> Fonts:
    """Matplotlib's fonts and those of the packages in another environment."""
    names = ("Roboto-[!TL]*", "Caladea-*", "SourceSerifPro-[!EL]*")
    folder = next(environment.glob("lib/python*/site-packages"))
    others = [path for name in names for path in sorted(folder.glob(f"font_*/files/{name}.ttf"))]
    return Fonts([*matplotlib_fonts(), *others], folder / "paperang_p2_fonts_cjk/fonts/wqy-microhei.ttc")


def sorts(fonts: Fonts, clean: int) -> Iterator[tuple[str, Page]]:
    """Pages with the name of their sort, in turn, so that a busy minute hits all alike."""
    for seed in range(clean):
        straight = page(seed, *fonts)
        yield "clean", straight
        if seed % 9 == 0:
            yield "as photographed", photographed(straight, seed)
            yield "turned", Page(straight.image.rotate(90 * (1 + seed // 9 % 3), expand=True), straight.lines)
            yield "columns", page(seed, *fonts, columns=2 + seed // 9 % 2)


def main(arguments: Sequence[str]) -> int:
    bundle, environment, *photos = map(Path, arguments)
    precision: Precision = "bf16" if os.environ.get("PRECISION") == "bf16" else "fp32"
    ours, python = Reader(bundle, precision), environment / "bin/python"
    with TemporaryDirectory() as kept, other_reader(python, "1", Path(kept)) as one:
        if photos:
            of_photographs(ours, one, sorted(photos[0].rglob("*.[Jj][Pp]*[Gg]")))
            return 0
        with other_reader(python, "own", Path(kept)) as own:
            readers: Mapping[str, Read] = {"tagstream": ours, "rapidocr, one thread": one, "rapidocr": own}
            scores: dict[tuple[str, str], Score] = {}
            for sort, given in sorts(installed_fonts(environment), int(os.environ.get("PAGES", "450"))):
                for name, reader in readers.items():
                    scores.setdefault((sort, name), Score()).add(given, *reader(given.image))
    table = Table("pages", "read by", "characters' errors", "in order", "processor time a page")
    for (sort, name), score in sorted(scores.items()):
        table.add_row(sort, name, *score.cells())
    Console(width=120).print(table)
    return 0


def of_photographs(ours: Reader, other: Read, paths: Sequence[Path]) -> None:
    """Print in how many photographs without text for rapidocr we find a line."""
    seconds, wrong, without = [], 0, 0
    for path in paths:
        image = Image.open(path).convert("RGB")
        (mine, spent), (its, other_spent) = ours(image), other(image)
        seconds.append((spent, other_spent))
        without += not its
        wrong += bool(mine) and not its
    means = np.mean(seconds, axis=0)
    Console().print(
        f"{len(paths)} photographs, {without} without text for rapidocr; in {wrong} of those a line. "
        f"Processor time a photograph: {means[0]:.2f} s, rapidocr {means[1]:.2f} s."
    )
