"""Cleaning a set: its regions, the dropped tags with reasons, and the command with its report."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tagstream_train.data.images import BadImage, Images
from tagstream_train.data.samples import DataSet, Sample, write_dataset
from tagstream_train.engine.clean import Cleaner, Decision, Rules
from tagstream_train.engine.generate import agreeing
from tagstream_train.engine.regions import MAX_REGIONS, Box, Floats, Grid, crops, farthest, regions_of
from tagstream_train.engine.report import Examples, page
from tagstream_train.metrics import OFF
from tests.support.command import Tagstream
from tests.support.harness import ColourTagger
from training.tests.unit.pictures import png, shades, write
from workers.errors import Misconfigured

LABELS = ["red", "green", "blue", "unheard"]


class Colours:
    """Sees a colour where it is the mean of a part: its score is that channel's share of the light."""

    dimensions = 3

    def __init__(self, labels: Sequence[str] = ("green", "red", "blue"), name: str = "colours", least: float = 0.8):
        self.name, self.digest = name, name
        self.labels: Sequence[str] = labels
        self.thresholds: Sequence[float] = [least] * len(labels)
        self._channels = [("red", "green", "blue").index(label) for label in labels]

    def look(self, parts: Sequence[Image.Image]) -> tuple[Floats, Floats]:
        means = np.array([np.asarray(part, np.float32).mean((0, 1)) for part in parts], np.float32)
        light = means / np.maximum(means.sum(1, keepdims=True), 1)
        return light[:, self._channels], means


RULES = Rules()
COLOURS = Colours()


def halves(left: tuple[int, int, int], right: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGB", (40, 40), left)
    image.paste(right, (20, 0, 40, 40))
    return image


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
IMAGES = {"two.png": halves(RED, GREEN), "blue.png": halves(BLUE, BLUE)}


def read(sample: Sample) -> Image.Image:
    if sample.image not in IMAGES:
        raise BadImage(sample.image, "cut short")
    return IMAGES[sample.image]


def cleaned(
    tmp_path: Path, samples: Sequence[Sample], rules: Rules = RULES, models: Sequence[Colours] = (COLOURS,)
) -> tuple[list[Sample], list[Decision]]:
    dataset = write_dataset(tmp_path / "set", samples, LABELS, name="colours")
    found = list(Cleaner(dataset, models, Grid(), rules).clean(read, tmp_path / "evidence"))
    return [sample for sample, _ in found], [decision for _, decisions in found for decision in decisions]


def test_a_tag_that_no_region_shows_is_dropped_and_one_that_a_region_shows_stays(tmp_path: Path) -> None:
    two = Sample(
        image="two.png", captions=("red and blue",), caption_tags=((0, 2),), tags=(0, 1, 2), origins={2: "parsed"}
    )
    (sample,), decisions = cleaned(tmp_path, [two])
    assert (sample.tags, sample.caption_tags, sample.origins) == ((0, 1), ((0,),), {})
    assert [(d.label, d.kept, d.reason, d.box) for d in decisions[:2]] == [
        ("red", True, "confirmed", Box(0, 0, 20, 20)),
        ("green", True, "confirmed", Box(20, 0, 40, 20)),
    ]
    assert (decisions[2].reason, decisions[2].scores) == ("unconfirmed", {"colours": 0.0})
    assert decisions[2].detail == "colours scores it 0.00 in its best region and wants over 0.80"


@pytest.mark.parametrize("origin", ["given", "person"])
def test_tags_of_a_person_or_of_the_sets_author_stay(tmp_path: Path, origin: str) -> None:
    sample = Sample.model_validate({"image": "blue.png", "tags": [0], "origins": {0: origin}})
    (kept,), (decision,) = cleaned(tmp_path, [sample])
    assert (kept, decision.reason) == (sample, "protected")
    (without,), _ = cleaned(tmp_path / "asked", [sample], Rules(protected=frozenset()))
    assert without.tags == ()


def test_a_tag_that_can_not_be_judged_stays_with_its_reason(tmp_path: Path) -> None:
    samples = [Sample(image="lost.png", tags=(0,)), Sample(image="blue.png", tags=(1, 3))]
    kept, decisions = cleaned(tmp_path, samples, Rules(labels=frozenset({"red", "unheard"})))
    assert kept == samples
    assert [(d.reason, d.detail) for d in decisions] == [
        ("unreadable", "cut short"),
        ("not-asked", "it is not among the labels to check"),
        ("unknown-label", "colours does not know it"),
    ]


@pytest.mark.parametrize(("strict", "reason"), [(1, "confirmed"), (2, "disagreement")])
def test_fewer_than_half_of_the_models_are_too_few(tmp_path: Path, strict: int, reason: str) -> None:
    others = [Colours(name=f"strict {number}", least=2.0) for number in range(strict)]
    knows_no_blue = Colours(("red",), name="narrow")
    _, (decision,) = cleaned(
        tmp_path, [Sample(image="blue.png", tags=(2,))], Rules(), [Colours(), *others, knows_no_blue]
    )
    assert decision.reason == reason
    assert "narrow" not in decision.scores


def test_the_farthest_regions_of_a_label_are_outliers(tmp_path: Path) -> None:
    shades = {f"{n}.png": halves((255, 3 * (n % 4), 0), (255, 0, 3 * (n % 5))) for n in range(27)}
    strange = {f"strange {n}.png": halves((255, 0, 60), (255, 0, 60)) for n in range(3)}
    IMAGES.update(shades | strange)
    samples = [Sample(image=name, tags=(0,)) for name in [*shades, *strange]]
    kept, decisions = cleaned(tmp_path, samples, Rules(clusters=1))
    assert [d.image for d in decisions if d.reason == "outlier"] == list(strange)
    assert [sample.image for sample in kept if not sample.tags] == list(strange)


@pytest.mark.parametrize("torn", [b'{"ima', b"\0" * 40 + b"\n", b"{}\n"])
def test_a_cut_run_continues_at_its_place(tmp_path: Path, torn: bytes) -> None:
    samples = [Sample(image=name, tags=(0, 1, 2)) for name in ("two.png", "blue.png", "two.png", "lost.png", "two.png")]
    dataset = write_dataset(tmp_path / "set", samples, LABELS, name="colours")
    whole = list(Cleaner(dataset, [Colours()], Grid(), Rules()).clean(read, tmp_path / "whole"))
    seen: list[str] = []

    def cut(sample: Sample) -> Image.Image:
        seen.append(sample.image)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return read(sample)

    cleaner = Cleaner(dataset, [Colours()], Grid(), Rules())
    with pytest.raises(KeyboardInterrupt):
        list(cleaner.clean(cut, tmp_path / "evidence"))
    for file in ("evidence.jsonl", "features.bin"):  # as a kill in the middle of a write, or a crash, leaves them
        with (tmp_path / "evidence" / file).open("ab") as end:
            end.write(torn)
    assert list(cleaner.clean(cut, tmp_path / "evidence")) == whole
    assert seen[3:] == ["two.png", "lost.png", "two.png"]


def test_evidence_of_another_model_is_not_taken(tmp_path: Path) -> None:
    samples = [Sample(image="two.png", tags=(0,))]
    cleaned(tmp_path, samples)
    with pytest.raises(Misconfigured, match="of other models"):
        cleaned(tmp_path, samples, models=[Colours(name="other")])


def test_a_model_without_any_of_the_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="knows none of the labels"):
        cleaned(tmp_path, [Sample(image="two.png", tags=(0,))], Rules(labels=frozenset({"unheard"})))


SEEN_OR_NOT = ["Egyptian cat", "volcano", "a made-up word"]


@pytest.fixture(scope="module")
def cats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from skimage import data

    folder = tmp_path_factory.mktemp("cats")
    (folder / "images").mkdir()
    cat = data.chelsea()  # type: ignore[no-untyped-call]
    Image.fromarray(cat).save(folder / "images" / "cat.png")
    (folder / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    samples = [
        Sample(image="images/cat.png", captions=("a cat",), caption_tags=((0, 1),), tags=(0, 1, 2), sha256="a" * 64),
        Sample(image="images/broken.png", tags=(0,)),
    ]
    write_dataset(folder, samples, SEEN_OR_NOT, name="cats", steps=["drawn"])
    return folder


@pytest.mark.slow
def test_a_wrong_tag_goes_and_a_right_one_stays(cats: Path, tmp_path: Path, tagstream: Tagstream) -> None:
    out = tmp_path / "clean"
    shown = tagstream("train", "clean", cats, "--model", "compact", "--out", out).done
    assert shown.startswith(f"1 of 4 tags dropped; 2 images in {out}\n")
    made = DataSet(out)
    assert [sample.tags for sample in made] == [(0, 2), (0,)]
    assert made.header.steps == ("drawn", "cleaned by compact")
    assert "compact" in made.header.parents
    assert (out / "images" / "cat.png").read_bytes() == (cats / "images" / "cat.png").read_bytes()
    decisions = [json.loads(line) for line in (out / "decisions.jsonl").read_text().splitlines()]
    assert [each["reason"] for each in decisions] == ["confirmed", "unconfirmed", "unknown-label", "unreadable"]
    assert "volcano" in (out / "report.html").read_text()
    again = tagstream("train", "clean", cats, "--model", "compact", "--out", out)
    assert again.out == shown  # from the evidence that is there


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--out", "{cats}"], "--out is the set itself"),
        (["--out", "{out}", "--regions", "nosuch"], "no such detector"),
        (["--out", "{out}", "--labels", "{cats}/nosuch.txt"], "can't be read"),
    ],
)
def test_an_impossible_option_is_a_sentence(
    cats: Path, tmp_path: Path, tagstream: Tagstream, arguments: list[str], says: str
) -> None:
    given = [each.format(cats=cats, out=tmp_path / "out") for each in arguments]
    ran = tagstream("train", "clean", cats, "--model", "compact", *given)
    assert (ran.code, says in ran.err) == (2, True), ran.err
    assert "Traceback" not in ran.err


def decision(number: int, reason: str = "outlier", label: str = "dog") -> Decision:
    kept = reason == "confirmed"
    document = {"image": f"{number}.jpg", "label": label, "tag": 0, "kept": kept, "reason": reason, "detail": "why"}
    return Decision.model_validate(document | {"scores": {"ram": 0.5}, "box": Box(0, 0, 5, 5)})


def photo(name: str) -> Image.Image:
    if name == "7.jpg":
        raise BadImage(name, "gone <script>")
    return Image.new("RGB", (30, 10), (0, 128, 0))


def test_examples_are_bounded_and_spread_over_the_run() -> None:
    examples = Examples(10)
    for number in range(1000):
        examples.add(decision(number))
    shown = [int(each.image.removesuffix(".jpg")) for each in examples.of("outlier")]
    assert examples.counts == {"outlier": 1000}
    assert len(shown) == 10
    assert min(shown) < 100
    assert max(shown) > 500


def test_the_page_shows_each_reason_with_its_picture_and_nothing_from_elsewhere() -> None:
    examples = Examples()
    for each in (decision(1), decision(2, "confirmed"), decision(7, "unconfirmed", label="<b>cat</b>")):
        examples.add(each)
    html = page("Cleaned", examples, photo, {"model": "ram <7>"})
    assert "2 of 3 tags were dropped" in html
    assert html.count("<img ") == 2
    assert "&lt;b&gt;cat&lt;/b&gt;" in html
    assert "gone &lt;script&gt;" in html
    assert html.count("<script") == 1
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    assert re.findall(r"<h2>(\w+): 1 of 1", html) == ["unconfirmed", "outlier", "confirmed"]


OF_RED, OF_GREEN = 0, 1


@pytest.fixture
def dataset(tmp_path: Path) -> DataSet:
    """All images from shade 128 on are red, and of these but two in three are said to be; every seventh is green."""
    samples = []
    for number, sample in enumerate(shades(tmp_path, 256)):
        red = {OF_RED} if number >= 128 and number % 3 else set()
        green = {OF_GREEN} if number % 7 == 0 else set()
        samples.append(sample.model_copy(update={"tags": tuple(sorted(red | green))}))
    return write_dataset(tmp_path, samples, ("red", "green"), name="shades")


def test_a_label_is_given_where_it_agrees_with_the_set_often_enough(dataset: DataSet) -> None:
    red, _, _ = agreeing(ColourTagger(), dataset, Images(dataset.folder), 0.5)
    strict, _, _ = agreeing(ColourTagger(), dataset, Images(dataset.folder), 0.99)
    assert 60 / 255 < red < 140 / 255
    assert strict > red


def test_a_label_that_a_model_can_not_tell_is_given_to_no_image(dataset: DataSet) -> None:
    _, green, blue = agreeing(ColourTagger(), dataset, Images(dataset.folder), 0.5)
    assert green == OFF  # all images are as green
    assert blue == OFF  # and the set has no such label


def test_a_set_that_is_too_small_to_measure_on_is_a_sentence(tmp_path: Path) -> None:
    dataset = write(tmp_path, [png(7)], ("red", "green"))
    with pytest.raises(Misconfigured):
        agreeing(ColourTagger(), dataset, Images(tmp_path), 0.5)


def around(centre: list[float], count: int, spread: float, seed: int) -> Floats:
    noise = np.random.default_rng(seed).normal(0, spread, (count, len(centre)))
    return np.asarray(np.array(centre) + noise, np.float32)


def test_outlying_rows_are_marked() -> None:
    alike = np.concatenate([around([1, 0, 0, 0], 60, 0.02, 0), around([0, 1, 0, 0], 30, 0.02, 1)])
    strange = around([0, 0, 1, 1], 10, 0.5, 2)
    marked = farthest(np.concatenate([alike, strange]), 0.1, clusters=2)
    assert marked.sum() == 10
    assert marked[90:].sum() >= 9


def test_only_directions_count() -> None:
    rows = around([1, 0, 0], 40, 0.05, 3)
    longer = rows * np.linspace(1, 50, 40, dtype=np.float32)[:, None]
    assert np.array_equal(farthest(rows, 0.2), farthest(longer, 0.2))


@pytest.mark.parametrize(("count", "share", "expected"), [(19, 0.5, 0), (20, 0.1, 2), (25, 0.1, 2), (30, 0.0, 0)])
def test_a_share_of_the_rows_is_marked_and_no_row_of_few(count: int, share: float, expected: int) -> None:
    assert farthest(around([1, 0], count, 0.3, 4), share).sum() == expected


def test_rows_that_are_all_alike_make_no_trouble() -> None:
    assert farthest(np.ones((50, 4), np.float32), 0.1).sum() == 5


class Whole(Colours):
    """Sees red in whole images alone, as a model that goes by the surroundings."""

    def look(self, parts: Sequence[Image.Image]) -> tuple[Floats, Floats]:
        scores = np.array([[0.0, float(part.size == (40, 40)), 0.0] for part in parts], np.float32)
        return scores, np.ones((len(parts), 3), np.float32)


def test_a_tag_that_a_model_sees_in_the_whole_image_alone_is_dropped(tmp_path: Path) -> None:
    (sample,), (decision,) = cleaned(
        tmp_path, [Sample(image="two.png", tags=(0,), origins={0: "generated"})], models=[Whole()]
    )
    assert (sample.tags, decision.reason) == ((), "unconfirmed")


def test_a_grid_is_of_overlapping_halves() -> None:
    boxes = Grid().propose(Image.new("RGB", (100, 60)), [])
    assert sorted(boxes) == sorted(Box(x, y, x + 50, y + 30) for x in (0, 25, 50) for y in (0, 15, 30))


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (7, 3), (4000, 9)])
def test_a_grid_lies_inside_any_image_and_covers_it(size: tuple[int, int]) -> None:
    boxes = Grid((0.5, 0.34)).propose(Image.new("RGB", size), [])
    assert all(0 <= b.left < b.right <= size[0] and 0 <= b.top < b.bottom <= size[1] for b in boxes)
    assert {(b.left, b.top) for b in boxes} >= {(0, 0)}
    assert max(b.right for b in boxes) == size[0]
    assert max(b.bottom for b in boxes) == size[1]


def test_a_detectors_box_outside_the_image_is_cut_off() -> None:
    image = Image.new("RGB", (10, 10))
    found = crops(image, [Box(-5, -5, 4, 4), Box(20, 20, 30, 30), Box(5, 5, 5, 9), Box(6, 6, 99, 99)])
    assert [(box, part.size) for box, part in found] == [(Box(0, 0, 4, 4), (4, 4)), (Box(6, 6, 10, 10), (4, 4))]
    assert len(crops(image, [Box(0, 0, 1, 1)] * 1000)) == MAX_REGIONS


def test_a_detector_that_is_not_installed_is_said() -> None:
    assert isinstance(regions_of("grid"), Grid)
    with pytest.raises(Misconfigured, match=r"no such detector is installed; there is grid.*tagstream\.regions"):
        regions_of("grounding")
