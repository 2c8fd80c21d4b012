"""The training loop: its result and files, and resumption of killed runs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tagstream_train.checkpoints import NAME
from tagstream_train.data.loader import Batch
from tagstream_train.loop import PATIENCE, Plan, Progress, Trained, train
from tagstream_train.plan import toml_of
from tagstream_train.record import NUMBERS, find_hook
from tests.support.waiting import eventually
from training.tests.unit.runs import STOPPED, THREADS, Drawn, Parity, run
from workers.errors import Misconfigured

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PLAN = Plan(epochs=5, batch=4, lr=0.01, threads=1, checkpoint_every=4, weight_decay=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of a run with dropout and a moving average that nothing disturbed."""
    return run(tmp_path_factory.mktemp("whole"), _WITH_CHANCE, Parity(dropout=0.3))[1]


_WITH_CHANCE = PLAN.model_copy(update={"ema": 0.9})


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _program(*arguments: object) -> list[str]:
    return ["training.tests.unit.runs", *map(str, arguments)]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_learns(tmp_path: Path, precision: str) -> None:
    told: list[Progress] = []
    plan = PLAN.model_copy(update={"epochs": 10, "lr": 0.05, "precision": precision})
    trained, weights = run(tmp_path, plan, report=told.append)
    assert trained.losses["right"] == 1.0
    assert trained.losses["total"] < told[0].losses["total"] / 2
    assert (trained.steps, trained.images) == (60, 240)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_a_run_of_whole_epochs_has_no_step_more(tmp_path: Path) -> None:
    told: list[Progress] = []
    plan = PLAN.model_copy(update={"epochs": 85, "batch": 8, "accumulation": 17})
    run(tmp_path, plan, report=told.append)
    assert (len(told), told[-1].steps) == (15, 15)


class Stop(Exception):
    pass


def _stopping_after(steps: int) -> Any:
    def report(progress: Progress) -> None:
        if progress.step == steps:
            raise Stop

    return report


@pytest.mark.timeout(400)
def test_a_run_that_was_killed_ends_with_the_same_bits(tmp_path: Path, whole: dict[str, Tensor]) -> None:
    plan = tmp_path / "given.toml"
    plan.write_text(toml_of(_WITH_CHANCE))
    with subprocess.Popen(
        [sys.executable, "-m", *_program(tmp_path, plan, 0.3, 11)], env=_environment(), cwd=ROOT
    ) as process:
        eventually((tmp_path / STOPPED).exists, timeout_s=300)
        process.send_signal(signal.SIGKILL)
    assert torch.load(tmp_path / NAME, weights_only=True)["step"] == 8
    _, weights = run(tmp_path, _WITH_CHANCE, Parity(dropout=0.3))
    assert _equal(weights, whole)


@pytest.mark.timeout(400)
def test_two_processes_are_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    plan = tmp_path / "given.toml"
    plan.write_text(toml_of(PLAN))
    command = [sys.executable, "-m", "training.tests.unit.ranks", *_program(tmp_path, plan, 0.0)]
    done = subprocess.run(command, env=_environment(), cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "leaked" not in done.stderr
    threads = [(tmp_path / f"{THREADS}{rank}").read_text() for rank in range(2)]
    assert not any("gloo" in names for names in threads), threads  # such a thread may abort a process that exits
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    _, expected = run(tmp_path / "one", PLAN.model_copy(update={"batch": 8}))
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)


def test_accumulation_is_as_a_larger_batch(tmp_path: Path) -> None:
    _, expected = run(tmp_path / "large", PLAN.model_copy(update={"batch": 8}))
    _, weights = run(tmp_path / "small", PLAN.model_copy(update={"batch": 4, "accumulation": 2}))
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)


def test_a_clipped_gradient_does_not_depend_on_the_losss_scale(tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"clip": 1e-3})
    _, expected = run(tmp_path / "one", plan, Parity(scale=1.0))
    _, weights = run(tmp_path / "other", plan, Parity(scale=1000.0))
    torch.testing.assert_close(weights, expected, rtol=1e-2, atol=1e-4)


class WithPart(Parity):
    """Beside it a part with a gradient a thousand times as long."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(1, 1)
        self.model = nn.ModuleList((self.model, self.part))

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        whole, self.model = self.model, self.model[0]  # type: ignore[index]
        total = super().losses(batch)["total"]
        self.model = whole
        return {"total": total + 1000 * self.part.weight.square().sum() + 1000 * self.part.bias.square().sum()}


def test_a_part_that_is_clipped_apart_does_not_shorten_the_others_gradient(tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"clip": 1e-3, "ema": 0.5})
    _, expected = run(tmp_path / "alone", plan)
    objective = WithPart()
    run(tmp_path / "both", plan, objective, apart=objective.part)
    assert _equal(objective.model[0].state_dict(), expected)  # type: ignore[index]


def test_frozen_weights_stay(tmp_path: Path) -> None:
    objective = Parity()
    first = objective.model[1]  # type: ignore[index]
    first.requires_grad_(False)
    before = first.weight.clone()
    run(tmp_path, PLAN, objective)
    assert torch.equal(first.weight, before)
    kept = torch.load(tmp_path / NAME, weights_only=True)["weights"]
    assert set(kept) == {"4.weight", "4.bias"}


def test_a_run_gives_its_moving_average(tmp_path: Path) -> None:
    _, last = run(tmp_path / "last", PLAN)
    _, average = run(tmp_path / "average", PLAN.model_copy(update={"ema": 0.99}))
    kept = torch.load(tmp_path / "average" / NAME, weights_only=True)
    assert _equal(kept["weights"], last)
    kept["ema"].pop("n_averaged")
    assert all(map(torch.equal, kept["ema"].values(), average.values()))
    assert not _equal(average, last)


@pytest.mark.usefixtures("drawn")
def test_a_run_writes_down_its_numbers(tmp_path: Path) -> None:
    run(tmp_path, PLAN, validate=lambda: {"val_map": 0.5})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "total" in line] == list(range(30))
    assert [line["step"] for line in lines if "val_map" in line] == [5, 11, 17, 23, 29]
    with Image.open(tmp_path / "curves.png") as curves:
        assert curves.size[1] > curves.size[0]
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_validation_sees_the_moving_average(tmp_path: Path) -> None:
    objective = Parity()
    seen: list[dict[str, Tensor]] = []

    def validate() -> Mapping[str, float]:
        assert not objective.model.training
        seen.append({name: tensor.clone() for name, tensor in objective.model.state_dict().items()})
        return {}

    _, weights = run(tmp_path, _WITH_CHANCE, objective, validate=validate)
    assert _equal(seen[-1], weights)


class Judged(Parity):
    def __init__(self, *scores: float) -> None:
        super().__init__(dropout=0.3)
        self.scores, self.seen = list(scores), list[dict[str, Tensor]]()

    def validate(self) -> Mapping[str, float]:
        self.seen.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        return {"map": self.scores[len(self.seen) - 1]}

    def run(self, folder: Path, begun: float = 0.2, **options: Any) -> tuple[Trained, dict[str, Tensor]]:
        plan = _WITH_CHANCE.model_copy(update={"epochs": 9})
        return run(folder, plan, self, validate=self.validate, best=("map", begun), **options)


def test_the_best_weights_are_given_and_a_run_that_brings_nothing_ends(tmp_path: Path) -> None:
    objective = Judged(0.3, 0.6, *[0.5] * PATIENCE)
    trained, weights = objective.run(tmp_path)
    assert (trained.best, trained.epochs, trained.steps) == (2, 2 + PATIENCE, 6 * (2 + PATIENCE))
    assert _equal(weights, objective.seen[1])
    again, same = Judged().run(tmp_path, report=lambda _: pytest.fail("it had ended"))
    assert (again.best, again.steps) == (trained.best, trained.steps)
    assert _equal(same, weights)


def test_the_weights_of_the_beginning_may_be_the_best(tmp_path: Path) -> None:
    expected = Parity().model.state_dict()
    trained, weights = Judged(*[0.5] * PATIENCE).run(tmp_path, begun=0.5)
    assert trained.best == 0
    assert _equal(weights, expected)


@pytest.mark.parametrize("steps", [9, 16, 21, 33])
def test_a_run_that_was_stopped_ends_with_the_same_best_weights(tmp_path: Path, steps: int) -> None:
    """Stopped at a checkpoint within an epoch, at the best epoch, and later, after epochs without progress."""
    scores = (0.3, 0.4, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5)
    _, whole = Judged(*scores).run(tmp_path / "whole")
    with pytest.raises(Stop):
        Judged(*scores).run(tmp_path / "stopped", report=_stopping_after(steps))
    done = torch.load(tmp_path / "stopped" / NAME, weights_only=True)["step"]
    _, weights = Judged(*scores[done // 6 :]).run(tmp_path / "stopped")
    assert _equal(weights, whole)


def hook(plan: dict[str, Any], folder: Path) -> Any:
    assert folder.is_dir()
    return lambda step, numbers: (folder / f"{plan['seed']}-{step}").write_text(str(sorted(numbers)))


def test_a_hook_gets_the_written_numbers(tmp_path: Path) -> None:
    run(tmp_path, PLAN, hooks=[find_hook(f"{__name__}:hook")])
    assert (tmp_path / "0-29").read_text() == "['lr', 'right', 'total']"


@pytest.mark.parametrize("name", ["nothing", "no.such.module:function", f"{__name__}:nothing", f"{__name__}:PLAN"])
def test_a_hook_that_does_not_exist_is_a_sentence(name: str) -> None:
    with pytest.raises(Misconfigured, match=name.partition(":")[0]):
        find_hook(name)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path, PLAN, identity={"data": "one"})
    with pytest.raises(Misconfigured, match=r"lr 0\.01; this run has 0\.02"):
        run(tmp_path, PLAN.model_copy(update={"lr": 0.02}), identity={"data": "one"})
    with pytest.raises(Misconfigured, match="data one; this run has other"):
        run(tmp_path, PLAN, identity={"data": "other"})


def test_a_damaged_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    run(tmp_path, PLAN)
    content = (tmp_path / NAME).read_bytes()
    for damaged in (b"", b"junk", content[: len(content) // 2]):
        (tmp_path / NAME).write_bytes(damaged)
        with pytest.raises(Misconfigured, match="remove it to begin anew"):
            run(tmp_path, PLAN)


@pytest.mark.parametrize("damaged", [b'{"step": 5, "lo', bytes(512) + b"\n", b"\xff\n"])
def test_a_damaged_line_of_numbers_does_not_stop_a_run_from_resuming(tmp_path: Path, damaged: bytes) -> None:
    with pytest.raises(Stop):
        run(tmp_path, PLAN, report=_stopping_after(11))
    numbers = tmp_path / NUMBERS
    first = numbers.read_bytes().splitlines(keepends=True)[0]
    numbers.write_bytes(first + damaged)
    run(tmp_path, PLAN)
    steps = [json.loads(line)["step"] for line in numbers.read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[0] == json.loads(first)["step"]


class Diverging(Parity):
    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        return {"total": super().losses(batch)["total"] * float("inf")}


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="at step 1: train with a lower learning rate"):
        run(tmp_path, PLAN, Diverging())


class Nothing(Drawn):
    def __iter__(self) -> Iterator[Batch]:
        yield from ()


def test_batches_that_never_come_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="No image of the last epoch"):
        train(Parity(), Nothing(4), PLAN, tmp_path)
    with pytest.raises(Misconfigured, match="fewer images than one batch"):
        train(Parity(), Drawn(100), PLAN, tmp_path)


def test_a_run_leaves_torch_unchanged(tmp_path: Path) -> None:
    objective = Parity()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    run(tmp_path, PLAN, objective)
    assert torch.equal(torch.rand(1), expected)
    assert not torch.are_deterministic_algorithms_enabled()
