"""Profiles and allowed labels as files, and the words of `tagstream check` on them."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.models.tiny import tiny_bundle
from workers.assembly import findings
from workers.assembly.decoders import profiles
from workers.assembly.requirements import opened
from workers.errors import Misconfigured
from workers.models.bundle import EDITION
from workers.ports import Tagger
from workers.settings import Settings

TAGGER = cast(Tagger, SimpleNamespace(name="toy", labels=["cat", "dog"], thresholds=[0.5, 0.5], profiles={}))


def settings(folder: Path, *, json: str | None = None, allow: str | None = None, **more: Any) -> Settings:
    given = {}
    for field, text in (("profiles", json), ("labels_file", allow)):
        if text is not None:
            given[field] = folder / field
            given[field].write_text(text)
    return Settings.model_validate(given | more)


def test_profiles_come_from_their_file(tmp_path: Path) -> None:
    found = profiles(settings(tmp_path, json='{"strict": {"all": 0.9}}'), TAGGER)
    assert set(found) == {"default", "strict"}
    assert found["strict"].thresholds.tolist() == pytest.approx([0.9, 0.9])


def test_a_profiles_labels_may_be_in_a_file_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("dog\n")
    found = profiles(settings(tmp_path, json='{"p": {"only": "names.txt", "all": 0.25}}'), TAGGER)
    assert found["p"].thresholds.tolist() == [1, 0.25]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"p": {"all": ' + "9" * 100_000 + "}}", "is not JSON"),
        ("[]", "must hold an object"),
        ('{"p": {"al": 1}}', "threshold profile"),
        ('{"p": {"only": ["dogg"]}}', r"has no tag 'dogg'\. Do you mean 'dog'\?"),
        ('{"p": {"only": "none.txt"}}', r"none\.txt can't be read"),
    ],
)
def test_unreadable_profiles_are_reported(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        profiles(settings(tmp_path, json=content), TAGGER)


def test_a_missing_profiles_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="can't be read"):
        profiles(settings(tmp_path, profiles=str(tmp_path / "none")), TAGGER)


def test_a_profile_stays_within_the_allowed_labels(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="'dog' is not among the tags that TAGSTREAM_LABELS_FILE names"):
        profiles(settings(tmp_path, json='{"p": {"only": ["dog"]}}', allow="cat\n"), TAGGER)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "tiny").folder


def found(made: Settings) -> dict[str, str]:
    """What `check` finds of labels and profiles; an error's text where there is one."""
    answers = {}
    for about, ask in findings._questions(made):
        if about in ("Allowed labels", "Profiles"):
            try:
                answers[about] = ask()
            except Misconfigured as error:
                answers[about] = f"wrong: {error}"
    return answers


def test_a_check_counts_the_allowed_labels_and_the_profiles_labels(bundle: Path, tmp_path: Path) -> None:
    made = settings(tmp_path, json='{"warm": {"only": ["red"]}}', allow="red\nblue\n", tagger=str(bundle))
    assert found(made) == {
        "Allowed labels": f"2 of the 4 of tiny, from {tmp_path / 'labels_file'}",
        "Profiles": "labels that each can show: default 2, strict 2, warm 1",
    }


def test_a_check_tells_labels_that_the_bundle_does_not_have(bundle: Path, tmp_path: Path) -> None:
    made = settings(tmp_path, json='{"warm": {"only": ["redd"]}}', allow="red\nbleu\n", tagger=str(bundle))
    assert found(made) == {
        "Allowed labels": "wrong: tiny has no label 'bleu' (1 of 2 are unknown). Do you mean 'blue'?",
        "Profiles": "wrong: threshold profile 'warm': tiny has no tag 'redd'. Do you mean 'red'?",
    }


@pytest.mark.slow
def test_a_check_of_a_bundles_labels_loads_no_torch(bundle: Path, tmp_path: Path) -> None:
    settings(tmp_path, json='{"warm": {"only": ["red"]}}', allow="red\n")
    program = """
import os, sys
from workers.assembly import findings
from workers.environment import read
asked = dict(findings._questions(read(os.environ)))
print(asked["Tagger"](), asked["Allowed labels"](), asked["Profiles"](), sep="\\n")
assert "torch" not in sys.modules
"""
    variables = {"TAGGER": bundle, "LABELS_FILE": tmp_path / "labels_file", "PROFILES": tmp_path / "profiles"}
    environment = os.environ | {f"TAGSTREAM_{name}": str(path) for name, path in variables.items()}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "warm 1" in done.stdout


def test_a_file_of_profiles_without_an_end_is_not_read_on(tmp_path: Path) -> None:
    with (tmp_path / "profiles").open("wb") as file:
        file.truncate(10**10)
    with pytest.raises(Misconfigured, match="more than the 16,777,216 bytes"):
        profiles(Settings(profiles=tmp_path / "profiles"), TAGGER)


def test_a_compact_bundle_that_was_made_is_opened_as_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny_bundle(tmp_path / "tagstream" / f"compact-{EDITION}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "workers.models.compact", None)  # it would import torch
    assert opened("compact").digest == made.digest
