"""The whole loop on a drawn set, at its smallest: `make learn-fast`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workers.cli.app import run_command
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.training.learn import FAST, learn


@pytest.mark.slow
@pytest.mark.timeout(900)  # half a minute of one processor, which a busy machine may have to share
def test_the_last_model_is_better_than_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["train", "learn", "--fast", "--json", "-o", str(tmp_path / "learn")]) == 0
    document = json.loads(capsys.readouterr().out)
    rounds = {each["name"]: each for each in document["rounds"]}
    assert list(rounds) == ["parsed", "generated", "cleaned", "fine-tuned"]
    first, last = rounds["parsed"], rounds["fine-tuned"]
    assert last["test"] + last["unseen"] > first["test"] + first["unseen"]
    for each in rounds.values():
        Bundle.open(Path(each["bundle"])).verify()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(Misconfigured, match="is there already"):
        learn(tmp_path, FAST)
