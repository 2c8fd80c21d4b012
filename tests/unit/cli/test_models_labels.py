"""`tagstream models labels` and `calibrate`: from a label file to a bundle that tags, or to a sentence."""

import json
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from tests.unit.cli.conftest import Told
from tests.unit.models.small import small_bundle
from tests.unit.models.small_dual import small_dual
from workers.cli.app import run_command
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


def run(*words: object) -> int:
    return run_command(["models", *map(str, words)])


def test_a_label_file_becomes_a_bundle_and_bare_nouns_are_named(
    bundle: Path, file: Path, tmp_path: Path, told: Told
) -> None:
    assert run("labels", bundle, file, "-o", tmp_path / "mine") == 0
    made = Bundle.open(tmp_path / "mine")
    assert made.thresholds == (GUESSES["siglip"], 0.25, GUESSES["siglip"])
    source = made.manifest.provenance.labels
    assert source is not None
    assert (source.file, source.shares) == ("labels.toml", (0.1, None, None))
    out, err = told()
    assert "mine: small siglip, 3 labels" in out
    assert "dark, snow: a bare noun" in err
    assert "dark, snow: the threshold is a guess" in err
    assert "--rank-on" in err
    assert run("labels", bundle, file, "-o", tmp_path / "mine") == MISCONFIGURED
    assert run("labels", bundle, file, "-o", tmp_path / "mine", "--keep") == 0
    file.write_text(LABELS.replace("a bright picture", "bright " * 40))
    assert run("labels", bundle, file, "-o", tmp_path / "long") == 0
    assert "bright: a description is longer" in " ".join(told()[1].split())
    file.write_text(LABELS.replace("dark", "dusk"))
    assert run("labels", bundle, file, "-o", tmp_path / "mine", "--keep") == MISCONFIGURED
    assert "is not made of" in told()[1]


def test_thresholds_by_rank_are_passed_by_the_share_of_the_images(
    bundle: Path, file: Path, photos: Path, tmp_path: Path, told: Told
) -> None:
    assert run("labels", bundle, file, "-o", tmp_path / "mine", "--rank-on", photos) == 0
    made = Bundle.open(tmp_path / "mine")
    assert made.thresholds == (0.5, 0.25, 0.5)
    b = made.weights()["labels.b"].tolist()
    assert (b[1], 0 in (b[0], b[2]), b[0] == b[2]) == (0, False, False)
    assert "a guess" not in told()[1]
    assert run_command(["tag", str(photos), "--model", str(made.folder), "--captioner", "none", "--json"]) == 0
    tags = [{tag["name"] for tag in json.loads(line)["tags"]} for line in told()[0].splitlines()]
    assert sum("dark" in names for names in tags) == pytest.approx(12, abs=2)


def test_ram_needs_the_text_tower_of_clip_and_other_kinds_take_no_labels(
    bundle: Path, file: Path, tmp_path: Path, told: Told
) -> None:
    ram = small_bundle("ram", tmp_path / "ram").folder
    assert run("labels", ram, file, "-o", tmp_path / "mine") == MISCONFIGURED
    assert "give --text" in told()[1]
    assert run("labels", ram, file, "-o", tmp_path / "mine", "--text", bundle) == MISCONFIGURED
    assert "can't be compared" in told()[1]
    tag2text = small_bundle("tag2text", tmp_path / "tag2text").folder
    assert run("labels", tag2text, file, "-o", tmp_path / "mine") == MISCONFIGURED
    assert "learnt one by one" in told()[1]
    (bundle / "text.safetensors").unlink()
    assert run("labels", bundle, file, "-o", tmp_path / "mine") == MISCONFIGURED
    assert "text.safetensors is missing" in told()[1]
    assert not (tmp_path / "mine").exists()


def examples(folder: Path, photos: Path, label: str = "dark", count: int = 120) -> Path:
    path = folder / "examples.csv"
    rows = [f"{photos / f'{number:03}.png'},{label},{int(number % 2 == 0)}" for number in range(count)]
    path.write_text("\n".join(["image,label,shown", *rows, f"{photos / '000.png'},snow,1"]))
    return path


def test_calibration_finds_the_dark_pictures(
    bundle: Path, file: Path, photos: Path, tmp_path: Path, told: Told
) -> None:
    assert run("labels", bundle, file, "-o", tmp_path / "mine") == 0
    before = Bundle.open(tmp_path / "mine")
    told()
    given = examples(tmp_path, photos)
    code = run("calibrate", tmp_path / "mine", given, "-o", tmp_path / "calibrated", "--json")
    out, err = told()
    assert code == 0, err
    dark, snow = (json.loads(line) for line in out.splitlines()[:2])
    after = Bundle.open(tmp_path / "calibrated")
    assert after.digest != before.digest
    assert (snow["shown"], snow["threshold"]) == (1, before.thresholds[2])
    assert "10 are needed" in snow["kept"]
    assert (dark["shown"], dark["not_shown"]) == (60, 60)
    assert dark["kept"] is None
    assert dark["precision"] > 0.9
    assert dark["recall"] > 0.9
    assert "1 label without an example" in err


@pytest.mark.parametrize("kind", KINDS)
def test_all_steps_are_rehearsed_with_random_weights(
    kind: Kind, file: Path, photos: Path, tmp_path: Path, told: Told
) -> None:
    drawn, imported, raw, mine = (tmp_path / name for name in ("bundles/drawn", "imported", "raw", "mine"))
    assert run("random", kind, "-o", drawn) == 0
    files = [f"{drawn}.safetensors", "--tokenizer", f"{drawn}.tokenizer.json"]
    assert run("import", *files, "--space", f"random-{kind}-0", "-o", imported) == 0
    assert Bundle.open(imported).digest == Bundle.open(drawn).digest
    assert run("labels", imported, file, "-o", raw, "--rank-on", photos) == 0
    assert run("calibrate", raw, examples(tmp_path, photos), "-o", mine) == 0
    assert all(Bundle.open(each).manifest.provenance.random for each in (drawn, imported, raw, mine))
    told()
    assert run("embed", imported, "a dog on a beach", "snow") == 0
    dog, snow = (json.loads(line)["vector"] for line in told()[0].splitlines())
    assert np.dot(dog, snow) < 0.95, "sentences are told apart"
    assert run("random", kind, "-o", tmp_path / "again", "--seed", "1") == 0
    assert Bundle.open(tmp_path / "again").digest != Bundle.open(drawn).digest
    assert run("random", kind, "-o", drawn) == MISCONFIGURED


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
    bundle: Path, file: Path, tmp_path: Path, told: Told, content: str, said: str
) -> None:
    assert run("labels", bundle, file, "-o", tmp_path / "mine") == 0
    (tmp_path / "examples.csv").write_text(content)
    told()
    assert run("calibrate", tmp_path / "mine", tmp_path / "examples.csv", "-o", tmp_path / "new") == MISCONFIGURED
    err = told()[1]
    assert re.search(said, " ".join(err.split())), err


def test_only_labels_of_a_dual_encoder_are_calibrated(bundle: Path, photos: Path, tmp_path: Path, told: Told) -> None:
    assert run("calibrate", bundle, examples(tmp_path, photos), "-o", tmp_path / "new") == MISCONFIGURED
    assert "tagstream models labels" in told()[1]


def test_available_models_are_listed_with_their_cost(told: Told) -> None:
    assert run("list", "--known", "--json") == 0
    found = {each["word"]: each for each in map(json.loads, told()[0].splitlines())}
    assert {*get_args(AnyWord), "compact"} == found.keys()
    assert {*get_args(DualWord)} == PUBLISHED.keys()
    assert (found["ram"]["languages"], found["ram"]["answers"]) == ("en, zh", "tags, embeddings")
    assert found["siglip2-b16-224"]["bytes"] > 1.5e9
    assert all(each["images_per_s"] > 0 for each in found.values())
    assert run("list", "--known") == 0
    assert "siglip2-so400m14-384" in told()[0]


def test_the_rates_of_dual_encoders_equal_the_guides() -> None:
    guide = (Path(__file__).parents[3] / "docs/guide/own-words.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([a-z0-9-]+)` \|.*, ([\d.]+) \| `", guide, re.MULTILINE))
    assert {each.word: each.images_per_s for each in known() if each.word in PUBLISHED} == {
        word: float(rate) for word, rate in told.items()
    }
