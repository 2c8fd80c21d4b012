"""`tagstream train clean` with a real tagger on photographs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tagstream_train.data.samples import DataSet, Sample, write_dataset
from tests.unit.cli.conftest import Tagstream, tagstream

__all__ = ["tagstream"]

LABELS = ["Egyptian cat", "volcano", "a made-up word"]


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
    write_dataset(folder, samples, LABELS, name="cats", steps=["drawn"])
    return folder


@pytest.mark.slow
def test_a_wrong_tag_goes_and_a_right_one_stays(cats: Path, tmp_path: Path, tagstream: Tagstream) -> None:
    out = tmp_path / "clean"
    ran = tagstream("train", "clean", cats, "--model", "compact", "--out", out)
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"1 of 4 tags dropped; 2 images in {out}\n")
    made = DataSet(out)
    assert [sample.tags for sample in made] == [(0, 2), (0,)]
    assert made.header.steps == ("drawn", "cleaned by compact")
    assert "compact" in made.header.parents
    assert (out / "images" / "cat.png").read_bytes() == (cats / "images" / "cat.png").read_bytes()
    decisions = [json.loads(line) for line in (out / "decisions.jsonl").read_text().splitlines()]
    assert [each["reason"] for each in decisions] == ["confirmed", "unconfirmed", "unknown-label", "unreadable"]
    assert "volcano" in (out / "report.html").read_text()
    again = tagstream("train", "clean", cats, "--model", "compact", "--out", out)
    assert again.out == ran.out  # from the evidence that is there


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--out", "{cats}"], "--out is the set itself"),
        (["--out", "{out}", "--regions", "nosuch"], "no such detector"),
        (["--out", "{out}", "--labels", "{cats}/nosuch.txt"], "can't be read"),
    ],
)
def test_what_can_not_be_is_said_in_a_sentence(
    cats: Path, tmp_path: Path, tagstream: Tagstream, arguments: list[str], says: str
) -> None:
    given = [each.format(cats=cats, out=tmp_path / "out") for each in arguments]
    ran = tagstream("train", "clean", cats, "--model", "compact", *given)
    assert (ran.code, says in ran.err) == (2, True), ran.err
    assert "Traceback" not in ran.err
