"""The formulas of capacity, and the profiles that they take."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from workers.capacity import BUILT_IN, MOST_BYTES, CapacityPlan, Decoded, Demand, MachineProfile
from workers.cli.capacity import read_profile
from workers.errors import Misconfigured

RAM = BUILT_IN["ram-bf16"]
ON_A_GPU = RAM.model_copy(
    update={"device": "cuda", "single_s": 0.01, "batch": 32, "batch_s": 32 / 250, "device_cores": 1}
)


def plan(images: int = 10**6, megapixels: float = 2.0, cores: int = 8, known: float = 0.0) -> CapacityPlan:
    return CapacityPlan(Demand(images, megapixels=megapixels, cores=cores, known=known), RAM)


def test_more_images_never_need_less() -> None:
    plans = [plan(count) for count in (1, 10**5, 10**6, 10**7, 10**8, 10**9)]
    for smaller, larger in pairwise(plans):
        assert smaller.busy_workers < larger.busy_workers
        assert smaller.workers <= larger.workers
        assert smaller.partitions <= larger.partitions
    assert all(each.workers >= 2 and each.partitions >= 2 * each.workers for each in plans)


def test_images_seen_before_cost_no_model_no_decoder_and_no_download() -> None:
    none, half = plan(), plan(known=0.5)
    assert half.busy_workers == pytest.approx(none.busy_workers / 2, rel=0.01)
    assert half.store_bytes_a_s == pytest.approx(none.store_bytes_a_s / 2)
    assert half.redis_bytes == pytest.approx(none.redis_bytes / 2)


def test_workers_of_more_processors_are_fewer() -> None:
    assert plan(10**8, cores=32).workers == pytest.approx(plan(10**8, cores=8).workers / 4, rel=0.01)


def test_a_gpu_bounds_a_worker_that_has_processors_enough_and_decoding_one_that_has_not() -> None:
    enough = CapacityPlan(Demand(10**8, megapixels=0.3, cores=16), ON_A_GPU)
    too_few = CapacityPlan(Demand(10**8, megapixels=12, cores=4), ON_A_GPU)
    assert enough.bound == "device"
    assert enough.rate == pytest.approx(250)
    assert too_few.bound == "processors"
    assert too_few.rate < 40


def test_one_interpreter_limits_cached_images() -> None:
    cached = CapacityPlan(Demand(10**9, megapixels=2, cores=64, known=0.999), RAM)
    assert cached.bound == "interpreter"
    assert cached.rate == pytest.approx(1 / RAM.known_core_s, rel=0.02)


def test_one_interpreter_limits_new_images_on_a_faster_device() -> None:
    fast = ON_A_GPU.model_copy(update={"batch_s": 32 / 1_000})
    found = CapacityPlan(Demand(10**9, megapixels=0.3, cores=64), fast)
    assert found.bound == "interpreter"
    assert found.rate == pytest.approx(1 / (RAM.known_core_s + RAM.new_interpreter_s))
    half_known = CapacityPlan(Demand(10**9, megapixels=0.3, cores=64, known=0.5), fast)
    assert found.rate < half_known.rate < 2 * found.rate


def test_several_processes_have_an_interpreter_and_two_partitions_each() -> None:
    fast = ON_A_GPU.model_copy(update={"batch_s": 32 / 1_000})
    one = CapacityPlan(Demand(10**8, megapixels=0.3, cores=64), fast)
    two = CapacityPlan(replace(one.demand, processes=2), fast)
    assert two.rate == pytest.approx(2 * one.rate)
    assert two.lag_threshold == pytest.approx(2 * one.lag_threshold, abs=1)
    assert two.partitions >= 2 * 2 * two.workers
    many = CapacityPlan(replace(one.demand, processes=8), fast)
    assert many.bound == "device"


def test_the_workers_spare_rate_decides_how_long_a_lag_lasts() -> None:
    found = plan()
    surplus = found.workers * found.rate - found.mean
    assert found.catch_up_h * surplus == pytest.approx(found.mean)


def test_the_cost_follows_the_work_and_covers_at_least_two_workers() -> None:
    small, large = (CapacityPlan(Demand(count, megapixels=2, price=2.0), RAM) for count in (10, 10**8))
    assert small.cost_a_day == 2 * 24 * 2.0
    assert large.cost_a_day == pytest.approx(10**8 / (large.rate * 0.7) / 3600 * 2.0)
    assert plan().cost_a_day is None


def test_the_autoscaler_s_threshold_is_ten_seconds_of_a_worker_s_work() -> None:
    assert plan().lag_threshold == round(60 * plan().rate)
    assert replace(plan(), demand=Demand(1, megapixels=2, cores=1)).lag_threshold >= 1


COMPACT = BUILT_IN["compact"]


def decoding(*points: tuple[float, float]) -> MachineProfile:
    decoded = tuple(Decoded(megapixels=size, core_s=core_s) for size, core_s in points)
    return COMPACT.model_copy(update={"decoded": decoded})


def test_between_two_measured_images_lies_a_line() -> None:
    profile = decoding((1, 0.01), (3, 0.02))
    assert profile.decode_core_s(2) == pytest.approx(0.015)
    assert profile.decode_core_s(5) == pytest.approx(0.03)


def test_a_smaller_image_costs_at_least_its_share_of_the_smallest_measured() -> None:
    profile = decoding((1, 0.001), (2, 0.1))
    assert profile.decode_core_s(0.5) == pytest.approx(0.0005)


def test_one_measured_image_is_taken_in_proportion_and_images_of_one_size_in_the_mean() -> None:
    assert decoding((2, 0.02)).decode_core_s(4) == pytest.approx(0.04)
    assert decoding((2, 0.01), (2, 0.03)).decode_core_s(2) == pytest.approx(0.02)


def test_a_written_file_reads_back_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "here.json"
    file.write_text(COMPACT.model_dump_json(by_alias=True))
    assert read_profile(str(file)) == COMPACT
    assert read_profile("compact") is COMPACT


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch": 0}, "batch"),
        ({"batch_s": -1.0}, "batch_s"),
        ({"single_s": None}, "single_s"),
        ({"decoded": []}, "decoded"),
        ({"decoded": [{"megapixels": 1, "core_s": 1e300}]}, "decoded.0.core_s"),
        ({"schema": "tagstream-profile/2"}, "schema"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_a_document_that_is_no_profile_is_refused_in_a_sentence(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    file = tmp_path / "here.json"
    file.write_text(json.dumps(json.loads(COMPACT.model_dump_json(by_alias=True)) | change))
    with pytest.raises(Misconfigured, match=rf"is no profile: {named}: .*tagstream bench -o"):
        read_profile(str(file))


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 5_000, b"\xff\xfe", b"{}"])
def test_bytes_that_are_no_profile_are_refused_in_a_sentence(tmp_path: Path, body: bytes) -> None:
    file = tmp_path / "here.json"
    file.write_bytes(body)
    with pytest.raises(Misconfigured, match="is no profile"):
        read_profile(str(file))


def test_a_file_without_end_is_not_read_to_it(tmp_path: Path) -> None:
    file = tmp_path / "here.json"
    with file.open("wb") as large:
        large.truncate(MOST_BYTES + 1)
    with pytest.raises(Misconfigured, match="too large for a profile"):
        read_profile(str(file))


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"compact, ram-bf16, .*tagstream bench -o"):
        read_profile(str(tmp_path / "none"))
