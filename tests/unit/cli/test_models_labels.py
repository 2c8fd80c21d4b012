"""`tagstream models labels` and `calibrate`: from a label file to a bundle that tags, or to a sentence."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.cli.conftest import Told
from tests.unit.models.small import small_bundle
from tests.unit.models.small_dual import small_dual
from workers.cli.app import run_command
from workers.errors import MISCONFIGURED
from workers.models.bundle import Bundle
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
