"""Results of the whole loop as files, and what several seeds say together."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tagstream_train.cli.learn import spreads
from tagstream_train.learned import FILE, Learned, Round, gains, means, spread
from workers.cli.app import run_command
from workers.errors import Misconfigured


def _learned(seed: int, first: float, second: float) -> Learned:
    rounds = tuple(
        Round(name=name, bundle=f"bundles/{name}", right=0.9, found=0.7, test=value, unseen=value - 0.1)
        for name, value in (("parsed", first), ("generated", second))
    )
    return Learned(seed=seed, images=10, steps=5, rounds=rounds, guided=0.5 + seed, unguided=0.2)


SEEDS = [_learned(0, 0.40, 0.44), _learned(1, 0.50, 0.52), _learned(2, 0.45, 0.45)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert Learned.read(tmp_path) is None
    SEEDS[0].write(tmp_path)
    assert Learned.read(tmp_path) == SEEDS[0]


def test_a_damaged_result_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"seed": "none"}))
    with pytest.raises(Misconfigured, match="is damaged"):
        Learned.read(tmp_path)


def test_gains_are_paired_by_seed() -> None:
    (gain,) = gains(SEEDS, "test")
    assert asdict(gain) == pytest.approx({"mean": 0.02, "deviation": 0.02, "above": 2})
    assert gain.deviation < means(SEEDS, "test")[0].deviation
    assert spread([0.3]).deviation == 0


def test_several_seeds_are_shown_with_their_spread() -> None:
    lines = list(spreads(SEEDS))
    assert lines[0].startswith("3 seeds, 10 images, 5 steps each round")
    assert "45.0 ± 5.0" in lines[2]
    assert "+2.0 ± 2.0, 2" in next(line for line in lines[4:] if line.lstrip().startswith("generated"))
    assert lines[-1] == ("CIDEr-D of captions: 1.500 guided by tags, 0.200 without: +1.300 ± 1.000, gained by 3 seeds")


def test_a_folder_of_another_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SEEDS[0].write(tmp_path)
    assert run_command(["train", "learn", "--fast", "-o", str(tmp_path)]) == 2
    assert "is not of this run" in capsys.readouterr().err
