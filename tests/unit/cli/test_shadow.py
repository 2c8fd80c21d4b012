"""`tagstream shadow report` adds up, says whether the shadow may be promoted, and believes no file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.pipeline.shadow.test_report import counted
from workers.cli.app import run_command
from workers.pipeline.shadow.report import MAX_BYTES

LENIENT = ("--images", "4", "--jaccard", "0.5", "--label-images", "2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Reports of two workers: of four images, three have the same tags."""
    counted(("a", "a"), ("b", "b"), worker="w1").write(tmp_path / "w1.json")
    counted(("a", "a"), ("a\x1b[2J", "b"), worker="w2").write(tmp_path / "w2.json")
    return tmp_path


def test_a_shadow_that_may_be_promoted_ends_with_0_and_says_how(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["shadow", "report", str(folder), *LENIENT]) == 0
    said = capsys.readouterr().out
    assert "4 images compared, 0 dropped" in said
    assert "mean Jaccard index 0.750" in said
    assert "tags: 3 by both, 1 by the live one alone, 1 by the shadow alone" in said
    assert "✓ b may be promoted" in said
    assert "next: name it in TAGSTREAM_TAGGER" in said
    assert "workers: 2" in said


def test_one_that_may_not_ends_with_1_the_reason_and_the_worst_labels(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["shadow", "report", str(folder), *LENIENT, "--label-agreement", "0.9"]) == 1
    said = capsys.readouterr().out
    assert "✗ not to be promoted: of the images to which either gives the label a, both give it to less" in said
    assert "next: look at these labels" in said
    assert [line.split() for line in said.splitlines() if line.startswith("a ")] == [["a", "2", "1", "0", "67%"]]


def test_by_default_a_thousand_images_are_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["shadow", "report", str(folder)]) == 1
    assert "4 images compared, and 1,000 asked for" in capsys.readouterr().out


def test_as_json_it_is_one_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["shadow", "report", str(folder), *LENIENT, "--json", "--worst", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["may_be_promoted"] is True
    assert (told["compared"], told["mean_jaccard"], told["workers"]) == (4, 0.75, ["w1", "w2"])
    assert told["worst_labels"] == [{"name": "a", "both": 2, "live": 1, "shadow": 0, "agreement": pytest.approx(2 / 3)}]
    assert told["tags"] == {"both": 3, "live": 1, "shadow": 1}
    assert told["rule"]["images"] == 4


def test_labels_can_not_steer_the_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(["shadow", "report", str(folder), *LENIENT, "--label-images", "1"])
    said = capsys.readouterr().out
    assert "1 × \ufffd, which the shadow does not have" in said
    assert "\x1b" not in said


def test_without_files_it_takes_the_folder_of_the_settings(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAGSTREAM_SHADOW_REPORTS", str(folder))
    assert run_command(["shadow", "report", *LENIENT]) == 0
    monkeypatch.delenv("TAGSTREAM_SHADOW_REPORTS")
    monkeypatch.setenv("TAGSTREAM_STATE_DIR", str(folder))
    assert run_command(["shadow", "report", *LENIENT]) == 2
    assert (
        f"there is no report in {folder / 'shadow'}: a worker with TAGSTREAM_SHADOW_TAGGER writes one"
        in capsys.readouterr().err
    )


def test_what_is_no_report_ends_with_2_and_a_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = folder / "bad.json"
    bad.write_text('{"images": 5}')
    assert run_command(["shadow", "report", str(folder)]) == 2
    assert f"{bad} is no report of a shadow tagger: " in capsys.readouterr().err
    with bad.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert run_command(["shadow", "report", str(bad)]) == 2
    assert f"it has more than {MAX_BYTES} bytes" in capsys.readouterr().err
    (folder / "empty").mkdir()
    assert run_command(["shadow", "report", str(folder / "empty")]) == 2
    assert ": a worker with TAGSTREAM_SHADOW_TAGGER writes one" in capsys.readouterr().err
    assert run_command(["shadow", "report", str(folder / "w1.json"), str(folder / "w1.json")]) == 2
    assert "are both of the worker w1" in capsys.readouterr().err
