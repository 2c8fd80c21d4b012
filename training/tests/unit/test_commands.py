"""Commands: each takes one options object, and a program calls it as the command line does."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_type_hints

import pytest

from tagstream_train.cli import _COMMANDS
from tagstream_train.cli.data import SplitOptions, split
from tagstream_train.cli.fit import FitOptions, _run
from tagstream_train.data.samples import DataSet
from training.tests.unit.pictures import shades
from workers.cli.app import run_command


def test_a_command_is_called_without_the_command_line(tmp_path: Path) -> None:
    shades(tmp_path / "set", 40)
    split(SplitOptions(dataset=tmp_path / "set", out=tmp_path / "parts", val=0.3, test=0.3))
    assert (
        run_command(
            ["train", "split", str(tmp_path / "set"), "-o", str(tmp_path / "typed"), "--val", "0.3", "--test", "0.3"]
        )
        == 0
    )
    for part in ("train", "val", "test"):
        called, typed = (list(DataSet(tmp_path / folder / part)) for folder in ("parts", "typed"))
        assert called == typed


def test_a_fit_repeats_what_its_options_say(tmp_path: Path) -> None:
    options = FitOptions(
        data=tmp_path / "set", parent="compact", replay=tmp_path / "old", what="lora", precision_floor=0.9
    )
    run = _run(options)
    assert (run.data, run.parent, run.replay, run.embeddings) == (
        str(tmp_path / "set"),
        "compact",
        str(tmp_path / "old"),
        None,
    )
    assert (run.precision_floor, run.plan.epochs, run.plan.lr) == (0.9, 10, 3e-4)


@pytest.mark.parametrize("name", sorted(_COMMANDS))
def test_a_command_takes_one_options_object(name: str) -> None:
    assert list(inspect.signature(_COMMANDS[name]).parameters) == ["options"]
    assert inspect.isclass(get_type_hints(_COMMANDS[name])["options"])
