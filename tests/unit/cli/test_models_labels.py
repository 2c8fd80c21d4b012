"""`tagstream models labels` and `calibrate`: from a label file to a bundle that tags, or to a sentence."""

import json
import re
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from tests.support.command import Tagstream
from tests.unit.models.small import small_bundle
from tests.unit.models.small_dual import small_dual
from workers.cli.models import AnyWord, DualWord
from workers.errors import MISCONFIGURED
from workers.models.bundle import Bundle
from workers.models.dual.config import KINDS, Kind
from workers.models.dual.published import PUBLISHED, known
from workers.models.own_labels import GUESSES

pytestmark = pytest.mark.slow

LABELS = """
[[label]]
name = "dark"
share = 0.1

[[label]]
name = "bright"
descriptions = ["a bright picture"]
threshold = 0.25

[[label]]
name = "snow"
descriptions = ["snow"]
"""


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TAGSTREAM_DEVICE", "cpu")
    monkeypatch.setenv("TAGSTREAM_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 pictures, the even ones dark."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(1)
    for number in range(120):
        low = 0 if number % 2 == 0 else 160
        pixels = rng.integers(low, low + 90, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 96)).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return small_dual("siglip", tmp_path / "siglip").folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "labels.toml"
    path.write_text(LABELS)
    return path


@pytest.fixture
def run(tagstream: Tagstream) -> Tagstream:
    return partial(tagstream, "models")


def test_a_label_file_becomes_a_bundle_and_bare_nouns_are_named(
    bundle: Path, file: Path, tmp_path: Path, run: Tagstream
) -> None:
    ran = run("labels", bundle, file, "-o", tmp_path / "mine")
    made = Bundle.open(tmp_path / "mine")
    assert made.thresholds == (GUESSES["siglip"], 0.25, GUESSES["siglip"])
    source = made.manifest.provenance.labels
    assert source is not None
    assert (source.file, source.shares) == ("labels.toml", (0.1, None, None))
    assert "mine: small siglip, 3 labels" in ran.done
    assert "dark, snow: a bare noun" in ran.err
    assert "dark, snow: the threshold is a guess" in ran.err
    assert "--rank-on" in ran.err
    assert run("labels", bundle, file, "-o", tmp_path / "mine").code == MISCONFIGURED
    assert run("labels", bundle, file, "-o", tmp_path / "mine", "--keep").code == 0
    file.write_text(LABELS.replace("a bright picture", "bright " * 40))
    long = run("labels", bundle, file, "-o", tmp_path / "long").notes
    assert "bright: a description is longer" in " ".join(long.split())
    file.write_text(LABELS.replace("dark", "dusk"))
    assert "is not made of" in run("labels", bundle, file, "-o", tmp_path / "mine", "--keep").fails()


def test_thresholds_by_rank_are_passed_by_the_share_of_the_images(
    bundle: Path, file: Path, photos: Path, tmp_path: Path, run: Tagstream, tagstream: Tagstream
) -> None:
    assert "a guess" not in run("labels", bundle, file, "-o", tmp_path / "mine", "--rank-on", photos).notes
    made = Bundle.open(tmp_path / "mine")
    assert made.thresholds == (0.5, 0.25, 0.5)
    b = made.weights()["labels.b"].tolist()
    assert (b[1], 0 in (b[0], b[2]), b[0] == b[2]) == (0, False, False)
    shown = tagstream("tag", photos, "--model", made.folder, "--captioner", "none", "--json").done
    tags = [{tag["name"] for tag in json.loads(line)["tags"]} for line in shown.splitlines()]
    assert sum("dark" in names for names in tags) == pytest.approx(12, abs=2)


def test_ram_needs_the_text_tower_of_clip_and_other_kinds_take_no_labels(
    bundle: Path, file: Path, tmp_path: Path, run: Tagstream
) -> None:
    ram = small_bundle("ram", tmp_path / "ram").folder
    assert "give --text" in run("labels", ram, file, "-o", tmp_path / "mine").fails()
    assert "can't be compared" in run("labels", ram, file, "-o", tmp_path / "mine", "--text", bundle).fails()
    tag2text = small_bundle("tag2text", tmp_path / "tag2text").folder
    assert "learnt one by one" in run("labels", tag2text, file, "-o", tmp_path / "mine").fails()
    (bundle / "text.safetensors").unlink()
    assert "text.safetensors is missing" in run("labels", bundle, file, "-o", tmp_path / "mine").fails()
    assert not (tmp_path / "mine").exists()


def examples(folder: Path, photos: Path, label: str = "dark", count: int = 120) -> Path:
    path = folder / "examples.csv"
    rows = [f"{photos / f'{number:03}.png'},{label},{int(number % 2 == 0)}" for number in range(count)]
    path.write_text("\n".join(["image,label,shown", *rows, f"{photos / '000.png'},snow,1"]))
    return path


def test_calibration_finds_the_dark_pictures(
    bundle: Path, file: Path, photos: Path, tmp_path: Path, run: Tagstream
) -> None:
    assert run("labels", bundle, file, "-o", tmp_path / "mine").code == 0
    before = Bundle.open(tmp_path / "mine")
    given = examples(tmp_path, photos)
    ran = run("calibrate", tmp_path / "mine", given, "-o", tmp_path / "calibrated", "--json")
    dark, snow = (json.loads(line) for line in ran.done.splitlines()[:2])
    after = Bundle.open(tmp_path / "calibrated")
    assert after.digest != before.digest
    assert (snow["shown"], snow["threshold"]) == (1, before.thresholds[2])
    assert "10 are needed" in snow["kept"]
    assert (dark["shown"], dark["not_shown"]) == (60, 60)
    assert dark["kept"] is None
    assert dark["precision"] > 0.9
    assert dark["recall"] > 0.9
    assert "1 label without an example" in ran.err


@pytest.mark.parametrize("kind", KINDS)
def test_all_steps_are_rehearsed_with_random_weights(
    kind: Kind, file: Path, photos: Path, tmp_path: Path, run: Tagstream
) -> None:
    drawn, imported, raw, mine = (tmp_path / name for name in ("bundles/drawn", "imported", "raw", "mine"))
    assert run("random", kind, "-o", drawn).code == 0
    files = [f"{drawn}.safetensors", "--tokenizer", f"{drawn}.tokenizer.json"]
    assert run("import", *files, "--space", f"random-{kind}-0", "-o", imported).code == 0
    assert Bundle.open(imported).digest == Bundle.open(drawn).digest
    assert run("labels", imported, file, "-o", raw, "--rank-on", photos).code == 0
    assert run("calibrate", raw, examples(tmp_path, photos), "-o", mine).code == 0
    assert all(Bundle.open(each).manifest.provenance.random for each in (drawn, imported, raw, mine))
    embedded = run("embed", imported, "a dog on a beach", "snow").done
    dog, snow = (json.loads(line)["vector"] for line in embedded.splitlines())
    assert np.dot(dog, snow) < 0.95, "sentences are told apart"
    assert run("random", kind, "-o", tmp_path / "again", "--seed", "1").code == 0
    assert Bundle.open(tmp_path / "again").digest != Bundle.open(drawn).digest
    assert run("random", kind, "-o", drawn).code == MISCONFIGURED


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a.png,dark\n", "line 1: it is no example; write"),
        ("image,label,shown\na.png,dark,2\n", "line 2: it is no example"),
        ("a.png,drak,1\n", "line 1: the bundle has no label 'drak'.*dark"),
        ("a.png,dark,1\na.png,dark,0\n", "line 2: an earlier line says the opposite"),
        ('a.png,"dark,1\n', "it is no CSV"),
        ("a.png,dark,1\n" * 200, "has 1 image; calibration needs 100"),
    ],
)
def test_invalid_examples_are_reported_with_their_line(
    bundle: Path, file: Path, tmp_path: Path, run: Tagstream, content: str, said: str
) -> None:
    assert run("labels", bundle, file, "-o", tmp_path / "mine").code == 0
    (tmp_path / "examples.csv").write_text(content)
    err = run("calibrate", tmp_path / "mine", tmp_path / "examples.csv", "-o", tmp_path / "new").fails()
    assert re.search(said, " ".join(err.split())), err


def test_only_labels_of_a_dual_encoder_are_calibrated(
    bundle: Path, photos: Path, tmp_path: Path, run: Tagstream
) -> None:
    said = run("calibrate", bundle, examples(tmp_path, photos), "-o", tmp_path / "new").fails()
    assert "tagstream models labels" in said


def test_available_models_are_listed_with_their_cost(run: Tagstream) -> None:
    found = {each["word"]: each for each in map(json.loads, run("list", "--known", "--json").done.splitlines())}
    assert {*get_args(AnyWord), "compact"} == found.keys()
    assert {*get_args(DualWord)} == PUBLISHED.keys()
    assert (found["ram"]["languages"], found["ram"]["answers"]) == ("en, zh", "tags, embeddings")
    assert found["siglip2-b16-224"]["bytes"] > 1.5e9
    assert all(each["images_per_s"] > 0 for each in found.values())
    assert "siglip2-so400m14-384" in run("list", "--known").done


def test_the_rates_of_dual_encoders_equal_the_guides() -> None:
    guide = (Path(__file__).parents[3] / "docs/guide/own-words.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([a-z0-9-]+)` \|.*, ([\d.]+) \| `", guide, re.MULTILINE))
    assert {each.word: each.images_per_s for each in known() if each.word in PUBLISHED} == {
        word: float(rate) for word, rate in told.items()
    }
