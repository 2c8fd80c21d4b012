from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from workers.errors import Broken, Misconfigured
from workers.models.device import EXECUTIONS, Device, Execution, Precision
from workers.models.precision import Tuned, stored_tuning
from workers.models.tune import LARGEST_BATCH, WARM_S, Agreement, Trial, tune
from workers.ports import Tagger
from workers.types import LabelScores, Pixels, Transform

CPU = Device("cpu", "A Processor")


class Card(Device):
    executions = EXECUTIONS


CARD = Card("cpu", "A Card")


class TimedModels:
    """Models that take `seconds[precision]` by batch size on a clock of their own; a missing size does not fit."""

    def __init__(
        self,
        seconds: Mapping[Precision, Mapping[int, float]],
        wrong: Sequence[Precision] = (),
        times: Mapping[Execution, float] | None = None,
        wrong_in: Mapping[Execution, int] | None = None,
    ) -> None:
        self.seconds = seconds
        self.wrong = wrong
        self.times = times or {}
        """Execution → how many times as fast it is as the plain one; one that is not here does not work."""
        self.wrong_in = wrong_in or {}
        """Execution → the batch sizes with wrong answers."""
        self.now = 0.0
        self.ran: list[tuple[Precision, int]] = []
        """Every batch that was computed, warming up included: its precision and size."""
        self.hiccups: list[float] = []
        """Seconds that the next batches take longer than they should."""
        self.cold_s = 0.0
        """With its own time, in which a new model takes three times as long."""
        self.slow_from = float("inf")
        """From then on all takes twice as long."""

    def clock(self) -> float:
        return self.now

    def build(self, precision: Precision, execution: Execution) -> Tagger:
        if precision not in self.seconds:
            raise Misconfigured(f"no {precision} here")
        if execution != "eager" and execution not in self.times:
            raise Misconfigured(f"no {execution} here")
        return Model(self, precision, execution)


class Model:
    name = "timed"
    digest = "ab" * 32
    random_weights = True
    transform = Transform(size=4)
    labels: Sequence[str] = ("cat",)
    translations: Mapping[str, Sequence[str]] = {}
    thresholds: Sequence[float] = (0.5,)
    profiles: Mapping[str, Sequence[float]] = {}
    floor = 0.0

    def __init__(self, world: TimedModels, precision: Precision, execution: Execution) -> None:
        self.world = world
        self.precision: str = precision
        self.execution = execution
        self._named = precision
        self.max_batch = 0
        self._ran_s = 0.0
        times = world.times.get(execution, 1.0)
        self._seconds = {size: seconds / times for size, seconds in world.seconds[precision].items()}

    def warm_up(self) -> None:
        if self.precision in self.world.wrong:
            raise Broken("not the golden answers")
        if self.world.wrong_in.get(self.execution, self.max_batch + 1) <= self.max_batch:
            raise Broken("not the golden answers in larger batches")
        self.forward([self.self_test_image()])

    def self_test_image(self) -> Pixels:
        return np.zeros((4, 4, 3), np.uint8)

    def forward(self, images: Sequence[Pixels]) -> Sequence[None]:
        if len(images) not in self._seconds:
            raise MemoryError
        self.world.ran.append((self._named, len(images)))
        took = self._seconds[len(images)]
        took *= (3 if self._ran_s < self.world.cold_s else 1) * (2 if self.world.now >= self.world.slow_from else 1)
        self._ran_s += took
        self.world.now += took
        if self._named == "bf16" and self.world.hiccups:
            self.world.now += self.world.hiccups.pop(0)
        return [None] * len(images)

    def postprocess(self, raw: None) -> LabelScores:
        raise NotImplementedError


def _tune(world: TimedModels, tmp_path: Path) -> dict[Precision, Trial]:
    trials: list[Trial] = []
    tune("ab" * 32, "tagger", world.build, CPU, tmp_path, report=trials.append, clock=world.clock)
    return {trial.precision: trial for trial in trials}


def _even(seconds: float, largest: int) -> dict[int, float]:
    """Every batch takes the same time, so that twice the size is twice as fast."""
    return {2**k: seconds for k in range(12) if 2**k <= largest}


def test_the_fastest_precision_with_golden_answers_is_stored(tmp_path: Path) -> None:
    world = TimedModels({"fp32": _even(1.0, 8), "bf16": _even(0.5, 8), "int8": _even(0.1, 8)}, wrong=["int8"])
    trials = _tune(world, tmp_path)
    stored = stored_tuning("ab" * 32, "tagger", CPU, tmp_path)
    assert stored is not None
    assert (stored.precision, stored.max_batch) == ("bf16", 8)
    assert trials["int8"].refusal == "not the golden answers"
    assert trials["fp16"].refusal == "no fp16 here"
    assert trials["bf16"].images_per_s == pytest.approx(16)


@pytest.mark.parametrize(
    ("seconds", "batch"),
    [
        (_even(1.0, 4), 4),
        (_even(1.0, 1024), LARGEST_BATCH),
        ({1: 1.0, 2: 1.9, 4: 3.9, 8: 1.0}, 2),
        ({1: 5.0}, 1),
        ({1: 2.0, 2: 2.5, 4: 3.0}, 2),
        ({1: 1.0, 2: 1.96}, 1),
    ],
    ids=[
        "until memory ends",
        "until the largest",
        "until it gains nothing",
        "a slow device",
        "until it takes too long",
        "a small gain",
    ],
)
def test_batches_double_as_long_as_that_pays(tmp_path: Path, seconds: Mapping[int, float], batch: int) -> None:
    assert _tune(TimedModels({"fp32": seconds}), tmp_path)["fp32"].max_batch == batch


def test_a_model_is_timed_once_it_is_warm(tmp_path: Path) -> None:
    """Timed cold, a single image would seem slow, and batches would seem to pay."""
    world = TimedModels({"fp32": {size: 0.1 * size for size in (1, 2, 4, 8)}, "bf16": {1: 0.099, 2: 0.198}})
    world.cold_s = 3.0
    trials = _tune(world, tmp_path)
    assert {trial.max_batch for trial in trials.values() if not trial.refusal} == {1}
    assert trials["fp32"].images_per_s == pytest.approx(10)
    stored = stored_tuning("ab" * 32, "tagger", CPU, tmp_path)
    assert stored is not None
    assert stored.precision == "fp32"


def test_a_machine_that_slows_down_between_two_sizes_changes_no_choice(tmp_path: Path) -> None:
    world = TimedModels({"fp32": {1: 0.4, 2: 0.6, 4: 1.0, 8: 1.9}})
    world.slow_from = WARM_S + 3.0  # while batches of two are timed
    assert _tune(world, tmp_path)["fp32"].max_batch == 4


def test_an_image_that_takes_too_long_for_a_batch_of_two_is_run_alone(tmp_path: Path) -> None:
    world = TimedModels({"fp32": {1: 4.0, 2: 4.0}})
    assert _tune(world, tmp_path)["fp32"].max_batch == 1
    assert {size for _, size in world.ran} == {1}


def test_progress_is_reported_before_the_first_trial_and_after_each(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    world = TimedModels({"fp32": {1: 1.0}}, times={"graphs": 1.2})
    tune("ab" * 32, "tagger", world.build, CARD, tmp_path, progress=lambda *now: told.append(now), clock=world.clock)
    assert told == [(done, 6) for done in range(7)]


def test_a_less_exact_precision_must_be_worth_it(tmp_path: Path) -> None:
    _tune(TimedModels({"fp32": {1: 1.0}, "bf16": {1: 0.98}, "fp16": {1: 0.9}, "int8": {1: 0.89}}), tmp_path)
    stored = stored_tuning("ab" * 32, "tagger", CPU, tmp_path)
    assert stored is not None
    assert stored.precision == "fp16"


def test_a_precision_ten_times_as_slow_is_given_up_after_one_batch_and_says_so(tmp_path: Path) -> None:
    world = TimedModels({"fp32": _even(0.2, 8), "bf16": _even(2.8, 8), "fp16": _even(1.9, 8), "int8": _even(0.1, 8)})
    judged: list[str] = []
    trials: list[Trial] = []

    def judge(model: Model) -> Agreement:
        judged.append(model.precision)
        return Agreement(2, 2, "tag sets")

    tune("ab" * 32, "tagger", world.build, CPU, tmp_path, report=trials.append, judge=judge, clock=world.clock)  # type: ignore[arg-type]
    given_up = {trial.precision: trial.refusal for trial in trials}
    assert given_up == {
        "fp32": "",
        "bf16": "given up after one batch: 14 times as slow as fp32",
        "fp16": "",
        "int8": "",
    }
    assert [size for precision, size in world.ran if precision == "bf16"] == [1, 1], "warming up, and one batch"
    assert judged == ["fp32", "fp16", "int8"]


def test_it_is_compared_at_the_same_size_with_the_best_before_it(tmp_path: Path) -> None:
    """Large batches of the first are eighty times as fast; for one image the second takes but twice as long."""
    world = TimedModels({"fp32": _even(0.1, 128), "bf16": {1: 0.2}, "fp16": {1: 1.2}})
    trials = _tune(world, tmp_path)
    assert trials["bf16"].refusal == ""
    assert trials["fp16"].refusal == "given up after one batch: 12 times as slow as fp32"


def test_a_short_hiccup_does_not_cost_a_precision_its_trial(tmp_path: Path) -> None:
    world = TimedModels({"fp32": _even(0.010, 4), "bf16": _even(0.005, 4)})
    world.hiccups = [0.0, 0.4]  # while warming up, and in the first batch that is timed
    trials = _tune(world, tmp_path)
    assert trials["bf16"].refusal == ""
    assert trials["bf16"].images_per_s == pytest.approx(800)


@pytest.mark.parametrize(
    ("agreement", "chosen"),
    [
        (Agreement(2, 2, "tag sets", gap=0.4), "int8"),
        (Agreement(2, 1, "tag sets", gap=0.4), "bf16"),
        (Agreement(2, 1, "captions"), "bf16"),
        (None, "int8"),
    ],
)
def test_int8_is_out_of_the_question_where_it_changes_an_answer_and_others_are_not(
    tmp_path: Path, agreement: Agreement | None, chosen: Precision
) -> None:
    world = TimedModels({"fp32": _even(1.0, 2), "bf16": _even(0.5, 2), "int8": _even(0.1, 2)})
    trials: list[Trial] = []
    tuned = tune(
        "ab" * 32,
        "tagger",
        world.build,
        CPU,
        tmp_path,
        report=trials.append,
        judge=lambda model: agreement,
        clock=world.clock,
    )
    assert tuned.precision == chosen
    refused = {trial.precision: trial.refusal for trial in trials}["int8"]
    assert refused == ("" if chosen == "int8" else f"its rounding changes answers: {agreement}")


def test_a_device_where_nothing_fits_or_agrees_is_broken(tmp_path: Path) -> None:
    with pytest.raises(Broken, match="No precision gives the golden answers on A Processor"):
        _tune(TimedModels({"fp32": {}, "bf16": _even(1.0, 8)}, wrong=["bf16"]), tmp_path)
    assert stored_tuning("ab" * 32, "tagger", CPU, tmp_path) is None


def _tune_card(world: TimedModels, tmp_path: Path) -> tuple[Tuned, dict[str, str]]:
    """The choice, and every trial's refusal by its name, in order."""
    trials: list[Trial] = []
    tuned = tune("ab" * 32, "tagger", world.build, CARD, tmp_path, report=trials.append, clock=world.clock)
    assert stored_tuning("ab" * 32, "tagger", CARD, tmp_path) == tuned
    return tuned, {trial.name: trial.refusal for trial in trials}


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({"graphs": 1.2, "compiled": 1.6}, "compiled"),
        ({"graphs": 1.2, "compiled": 1.25}, "graphs"),
        ({"graphs": 1.04, "compiled": 1.04}, "eager"),
        ({"graphs": 1.2}, "graphs"),
        ({"compiled": 1.2}, "compiled"),
    ],
    ids=["worth it", "no better than graphs", "nothing gains", "no compiler", "no graphs"],
)
def test_the_best_precision_is_executed_in_the_way_that_is_worth_it(
    tmp_path: Path, times: Mapping[Execution, float], chosen: Execution
) -> None:
    tuned, trials = _tune_card(TimedModels({"fp32": _even(1.0, 4), "bf16": _even(0.4, 4)}, times=times), tmp_path)
    assert (tuned.precision, tuned.execution, tuned.max_batch) == ("bf16", chosen, 4)
    assert list(trials) == ["fp32", "bf16", "fp16", "int8", "bf16 graphs", "bf16 compiled"]
    for execution in ("graphs", "compiled"):
        assert trials[f"bf16 {execution}"] == ("" if execution in times else f"no {execution} here")


def test_an_execution_that_is_wrong_in_a_batch_of_the_chosen_size_is_refused(tmp_path: Path) -> None:
    world = TimedModels(
        {"bf16": _even(0.4, 4)}, times={"graphs": 1.2, "compiled": 1.6}, wrong_in={"compiled": 4, "graphs": 8}
    )
    tuned, trials = _tune_card(world, tmp_path)
    assert (tuned.execution, trials["bf16 compiled"]) == ("graphs", "not the golden answers in larger batches")


def test_a_cpu_is_not_asked_for_graphs_or_the_compiler(tmp_path: Path) -> None:
    world = TimedModels({"fp32": _even(1.0, 2)}, times={"graphs": 9.0, "compiled": 9.0})
    trials: list[Trial] = []
    tuned = tune("ab" * 32, "tagger", world.build, CPU, tmp_path, report=trials.append, clock=world.clock)
    assert tuned.execution == "eager"
    assert {trial.execution for trial in trials} == {"eager"}
