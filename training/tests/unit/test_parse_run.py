"""A whole set parsed: labels, origins, images, and the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tagstream_train.data.samples import DataSet, Sample, write_dataset
from tagstream_train.parse.run import Choices, Parsed, parse
from tagstream_train.parse.source import CaptionsFile, open_source
from workers.cli.app import run_command
from workers.errors import Misconfigured

CAPTIONS = """\
a.jpg\ta brown dog runs on the beach
a.jpg\tthe dog is running
b.jpg\ttwo dogs and a brown cat
"""


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    folder = tmp_path / "from"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"a")
    (folder / "captions.tsv").write_text(CAPTIONS)
    return folder / "captions.tsv"


def run(source: Path, target: Path, *, least: int = 1, **choices: object) -> Parsed:
    return parse(open_source(source), target, None, Choices(least=least, **choices), lambda _: None)  # type: ignore[arg-type]


def named(dataset: DataSet, ids: tuple[int, ...] | None) -> list[str]:
    return sorted(dataset.labels[at] for at in ids or ())


def test_captions_of_a_table_become_a_tagged_set(captions: Path, tmp_path: Path) -> None:
    parsed = run(captions, tmp_path / "out")
    first, second = parsed.dataset
    assert [named(parsed.dataset, ids) for ids in first.caption_tags] == [
        ["beach", "brown", "dog", "run"],
        ["dog", "run"],
    ]
    assert named(parsed.dataset, second.tags) == ["brown", "cat", "dog"]
    assert set(second.origins.values()) == {"parsed"}
    assert parsed.dataset.labels[0] == "dog"
    assert "parsed by lexicon" in parsed.dataset.header.steps[0]


def test_images_come_along_and_the_missing_are_named(captions: Path, tmp_path: Path) -> None:
    parsed = run(captions, tmp_path / "out")
    assert (tmp_path / "out" / "a.jpg").read_bytes() == b"a"
    assert parsed.missing == ["b.jpg"]


@pytest.mark.slow
def test_several_processes_find_the_same(captions: Path, tmp_path: Path) -> None:
    captions.write_text(CAPTIONS * 500)
    one, two = run(captions, tmp_path / "one"), run(captions, tmp_path / "two", processes=2)
    assert list(one.dataset) == list(two.dataset)
    assert one.captions == 1500


def test_a_list_of_labels_stays_as_it_is(captions: Path, tmp_path: Path) -> None:
    parsed = run(captions, tmp_path / "out", labels=["Zebra", "Running", "Dogs"])
    assert parsed.dataset.labels == ("Zebra", "Running", "Dogs")
    assert [sample.tags for sample in parsed.dataset] == [(1, 2), (2,)]


def test_a_set_parsed_again_into_itself_is_the_same_set(captions: Path, tmp_path: Path) -> None:
    before = list(run(captions, tmp_path / "out").dataset)
    assert list(run(tmp_path / "out", tmp_path / "out").dataset) == before


def test_given_tags_stay_and_what_is_known_absent_is_not_tagged(tmp_path: Path) -> None:
    sample = Sample(image="a.jpg", captions=("a dog and a cat",), tags=(1, 2), origins={2: "parsed"}, absent=(3,))
    write_dataset(tmp_path / "set", [sample], ["unused", "fur", "stale", "cat"], name="set")
    parsed = run(tmp_path / "set", tmp_path / "out")
    (result,) = parsed.dataset
    assert parsed.dataset.labels == ("fur", "cat", "dog")
    assert result.tags == (0, 2)
    assert result.absent == (1,)
    assert result.origins == {2: "parsed"}
    assert result.caption_tags == ((1, 2),)


def test_a_person_s_review_is_obeyed_and_kept(captions: Path, tmp_path: Path) -> None:
    review = tmp_path / "review.tsv"
    assert "run" in run(captions, tmp_path / "out", review=review).dataset.labels
    lines = [line.split("\t") for line in review.read_text().splitlines()]
    for cells in lines:
        if cells[0] == "run":
            cells[4] = "drop"
    review.write_text("".join("\t".join(cells) + "\n" for cells in lines))
    for _ in range(2):
        assert "run" not in run(captions, tmp_path / "out", review=review).dataset.labels


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"no tab here\n", "line 1: an image, a tab"), (b"a.jpg\t\xff\n", "line 1 is not text"), (b"", "no caption")],
)
def test_a_table_that_can_t_be_read_is_a_sentence(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "captions.tsv"
    path.write_bytes(content)
    with pytest.raises(Misconfigured, match=complaint):
        parse(CaptionsFile(path), tmp_path / "out", None, Choices(), lambda _: None)


def test_the_command_parses(captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tags = tmp_path / "tags.txt"
    tags.write_text("dog\ncat\n")
    out = str(tmp_path / "out")
    assert run_command(["train", "parse", str(captions), "-o", out, "--labels", str(tags), "--processes", "1"]) == 0
    shown = capsys.readouterr()
    assert "2 images, 3 captions, 1.3 tags each, 2 labels" in shown.out
    assert "1 image can't be found, the first is b.jpg" in shown.err


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["train", "parse", str(tmp_path / "none"), "-o", str(tmp_path / "out")]) == 2
    assert "There is no" in capsys.readouterr().err
