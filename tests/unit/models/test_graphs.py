"""Buckets and recordings, on a recorder that imitates CUDA graphs on a CPU: fixed input and output buffers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unit.models import tiny
from tests.unit.models.small import CPU, small_bundle
from workers.errors import Broken
from workers.models.device import Device, choose_device
from workers.models.execution import (
    BUCKETS,
    WARM_UPS,
    Bucketed,
    CudaRecorder,
    Function,
    bucket_for,
    call_again,
    sizes_up_to,
)
from workers.models.ram.adapters import build_captioner, build_tagger
from workers.models.ram.engine import Engine, engine_of
from workers.models.tagger import PIECE, sample_image


@dataclass
class FakeRecording:
    function: Function
    given: Tensor
    output: Tensor
    replays: int = 0

    def __call__(self) -> Tensor:
        self.replays += 1
        return self.output.copy_(self.function(self.given))


@dataclass
class Recorder:
    fails: dict[int, RuntimeError] = field(default_factory=dict)
    made: list[FakeRecording] = field(default_factory=list)

    def __call__(self, function: Function, given: Tensor) -> FakeRecording:
        if len(given) in self.fails:
            raise self.fails[len(given)]
        self.made.append(FakeRecording(function, given, function(given).clone()))
        return self.made[-1]

    @property
    def sizes(self) -> list[int]:
        return [len(each.given) for each in self.made]


class Calls:
    """A function that notes the batches it was called with by itself; each row's answer is its own."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, batch: Tensor) -> Tensor:
        self.rows.append(len(batch))
        return batch.float().flatten(1).cumsum(dim=1) * 2


def batch_of(rows: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (rows, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "bucket"), [(0, None), (1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, None)])
def test_a_batch_goes_into_the_smallest_bucket_that_holds_it(rows: int, bucket: int | None) -> None:
    assert bucket_for(rows, (1, 2, 4, 8)) == bucket


def test_at_most_a_quarter_of_a_bucket_is_padding_and_every_piece_has_one() -> None:
    waste = [1 - rows / bucket for rows in range(1, PIECE + 1) if (bucket := bucket_for(rows, BUCKETS))]
    assert len(waste) == PIECE
    assert max(waste) == 1 / 4


@pytest.mark.parametrize("rows", range(1, 10))
def test_each_graph_gives_the_answers_of_the_function_itself(rows: int) -> None:
    bucketed = Bucketed(Calls(), Recorder(), (1, 2, 4, 8))
    for seed in range(3):
        batch = batch_of(rows, seed)
        assert torch.equal(bucketed(batch), Calls()(batch))


def test_each_bucket_is_recorded_once_and_when_it_is_needed() -> None:
    record = Recorder()
    bucketed = Bucketed(Calls(), record, (1, 2, 4, 8))
    for rows in (3, 4, 3, 1, 7, 8, 4):
        bucketed(batch_of(rows))
    assert record.sizes == [4, 1, 8]
    assert [each.replays for each in record.made] == [4, 1, 2]


def test_an_answer_stays_when_the_next_batch_is_computed() -> None:
    bucketed = Bucketed(Calls(), Recorder())
    first = bucketed(batch_of(2, 1))
    kept = first.clone()
    bucketed(batch_of(2, 2))
    assert torch.equal(first, kept)


def test_an_input_lies_in_memory_as_the_batch_does() -> None:
    record = Recorder()
    Bucketed(Calls(), record, (4,))(batch_of(3).to(memory_format=torch.channels_last))
    (recording,) = record.made
    assert recording.given.is_contiguous(memory_format=torch.channels_last)
    assert (recording.given.dtype, recording.given.shape) == (torch.uint8, (4, 3, 4, 4))


def test_an_empty_batch_is_computed_directly() -> None:
    record, calls = Recorder(), Calls()
    assert Bucketed(calls, record, (1, 8))(batch_of(0)).shape == (0, 48)
    assert (record.sizes, calls.rows) == ([], [0])


def test_a_batch_beyond_the_largest_bucket_is_computed_in_pieces() -> None:
    record, calls = Recorder(), Calls()
    batch = batch_of(19)
    assert torch.equal(Bucketed(calls, record, (1, 4, 8))(batch), Calls()(batch))
    assert record.sizes == [8, 4]
    assert [each.replays for each in record.made] == [2, 1]


def test_a_recording_may_be_of_another_function_and_without_one_the_function_itself_runs() -> None:
    record, calls, faster = Recorder(fails={4: RuntimeError("no")}), Calls(), Calls()
    bucketed = Bucketed(calls, record, (2, 4), recorded=faster)
    for rows in (2, 3):
        assert torch.equal(bucketed(batch_of(rows)), Calls()(batch_of(rows)))
    assert (calls.rows, set(faster.rows)) == ([3], {2})


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, [1]), (5, [1, 2, 3, 4, 5]), (8, [1, 2, 3, 4, 6, 8]), (128, list(BUCKETS))]
)
def test_the_sizes_up_to_one_need_every_bucket_that_smaller_batches_need(largest: int, sizes: list[int]) -> None:
    assert sizes_up_to(largest) == sizes
    assert {bucket_for(size, BUCKETS) for size in sizes} == {
        bucket_for(min(rows, BUCKETS[-1]), BUCKETS) for rows in range(1, largest + 1)
    }


def test_a_function_is_called_again_where_there_are_no_graphs() -> None:
    calls = Calls()
    bucketed = Bucketed(calls, call_again, (2, 4))
    for seed, rows in enumerate((1, 2, 3, 4)):
        assert torch.equal(bucketed(batch_of(rows, seed)), Calls()(batch_of(rows, seed)))
    assert set(calls.rows) == {2, 4}


@pytest.mark.parametrize(
    "error", [RuntimeError("operation not permitted when stream is capturing"), torch.OutOfMemoryError("out of memory")]
)
def test_a_bucket_that_can_not_be_recorded_is_computed_without_and_said_once(
    error: RuntimeError, caplog: pytest.LogCaptureFixture
) -> None:
    record, calls = Recorder(fails={4: error}), Calls()
    bucketed = Bucketed(calls, record, (2, 4))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(bucketed(batch_of(3)), Calls()(batch_of(3)))
        bucketed(batch_of(2))
    assert calls.rows[:2] == [3, 3]
    assert record.sizes == [2]
    assert [each.getMessage() for each in caplog.records] == [
        f"no CUDA graph for batches of 4, which run a little slower: {error}"
    ]


def test_cuda_warms_up_on_a_stream_of_its_own_before_it_records_and_all_recordings_share_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    did: list[str] = []

    class Stream:
        def __init__(self, name: str = "side") -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            did.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        did.append(f"on {stream.name}")
        yield
        did.append(f"off {stream.name}")

    @contextmanager
    def graph(_: object, *, pool: object, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        did.append(f"record on {stream.name} with {pool}, {capture_error_mode}")
        yield
        did.append("recorded")

    class Graph:
        def pool(self) -> str:
            return "memory"

        def replay(self) -> None:
            did.append("replay")

    current = Stream("current")
    for name, made in (("Stream", Stream), ("stream", on), ("graph", graph), ("CUDAGraph", Graph)):
        monkeypatch.setattr(torch.cuda, name, made)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current)
    record = CudaRecorder()

    def function(given: Tensor) -> Tensor:
        did.append("run")
        return given + 1

    replay = record(function, torch.zeros(2))
    before = ["side waits for current", "on side", *["run"] * WARM_UPS, "off side", "current waits for side"]
    assert did == [*before, "record on side with None, thread_local", "run", "recorded"]
    assert replay().tolist() == [1.0, 1.0]
    assert did[-1] == "replay"
    did.clear()
    record(function, torch.zeros(4))
    assert did == [*before, "record on side with memory, thread_local", "run", "recorded"]


def test_a_cpu_runs_functions_directly() -> None:
    calls = Calls()
    assert CPU.functions()(calls) is calls
    assert CPU.batch_sizes(16) == ()


@dataclass(frozen=True)
class Graphed(Device):
    recorders: list[Recorder] = field(default_factory=list, compare=False)

    def functions(self) -> Callable[[Function], Function]:
        record = Recorder()
        self.recorders.append(record)
        return lambda function: Bucketed(function, record)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 5, 16, 17, 35])
def test_an_engine_with_graphs_has_the_tokens_and_logits_of_one_without(count: int, tmp_path: Path) -> None:
    bundle = small_bundle("ram", tmp_path / "ram")
    plain = engine_of(bundle, CPU, "fp32")
    device = Graphed("cpu", CPU.name, "graphs")
    graphed = Engine(plain.model, bundle, device, "fp32")
    images = [sample_image(64, seed) for seed in range(count)]
    for _ in range(2):
        with device.run():
            tokens = graphed.encode(images)
            torch.testing.assert_close(tokens, plain.encode(images), atol=1e-5, rtol=0)
            embeds = plain.model.embed(tokens)
            torch.testing.assert_close(graphed.score(embeds), plain.score(embeds), atol=1e-4, rtol=0)
            some = torch.tensor([1, 7])
            torch.testing.assert_close(graphed.score(embeds, some), plain.score(embeds)[:, some], atol=1e-4, rtol=0)
    (recorder,) = device.recorders
    recorded = [len(each.given) for each in recorder.made if each.given.dtype == torch.uint8]
    assert set(recorded) == {bucket_for(min(PIECE, count - start), BUCKETS) for start in range(0, count, PIECE)}
    assert len(recorded) == len(set(recorded))


@pytest.mark.slow
def test_a_warm_tagger_has_recorded_all_its_batch_sizes(tmp_path: Path) -> None:
    device = Graphed("cpu", CPU.name, "graphs")
    tagger = build_tagger(small_bundle("ram", tmp_path / "ram"), device, "fp32")
    tagger.max_batch = 6
    tagger.warm_up()
    (recorder,) = [each for each in device.recorders if each.made]
    assert sorted(recorder.sizes) == [1, 1, 2, 2, 3, 3, 4, 4, 6, 6], "the encoder and the head"
    for count in range(1, 7):
        tagger.forward([sample_image(64)] * count)
    assert len(recorder.made) == 10


@pytest.mark.slow
def test_a_warm_captioner_has_recorded_all_its_batch_sizes(tmp_path: Path) -> None:
    device = Graphed("cpu", CPU.name, "graphs")
    captioner = build_captioner(small_bundle("tag2text", tmp_path / "tag2text"), device, "fp32")
    captioner.max_batch = 3
    captioner.warm_up()
    (recorder,) = device.recorders
    assert sorted(recorder.sizes) == [1, 2, 3]


@dataclass(frozen=True)
class WrongInThrees(Device):
    def functions(self) -> Callable[[Function], Function]:
        return lambda function: lambda batch: function(batch) + (len(batch) == 3)


def test_a_start_refuses_kernels_of_one_size_that_compute_wrongly(tmp_path: Path) -> None:
    tagger = tiny.build_tagger(tiny.tiny_bundle(tmp_path / "tiny"), WrongInThrees("cpu", CPU.name, "graphs"), "fp32")
    tagger.max_batch = 2
    tagger.warm_up()
    tagger.max_batch = 4
    with pytest.raises(Broken, match=r"in batches of 3, in fp32 does not give its golden answers"):
        tagger.warm_up()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestCuda:
    def test_graphs_give_the_answers_of_the_function_itself(self) -> None:
        device = choose_device("cuda")
        network = device.place(
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 5)), "fp32"
        )
        made = device.functions()
        first, second = made(lambda images: network(images.float() / 255)), made(lambda x: x.softmax(dim=-1))
        for count in (1, 5, 3, 16, 17, 1):
            images = [np.full((16, 16, 3), 7 * value % 256, np.uint8) for value in range(count)]
            with device.run():
                batch = device.upload(images)
                expected = (network(batch.float() / 255)).softmax(dim=-1)
                torch.testing.assert_close(second(first(batch)), expected, atol=1e-5, rtol=1e-5)

    def test_recordings_of_one_recorder_share_their_memory(self) -> None:
        record = CudaRecorder()
        with torch.inference_mode():
            made = {}
            for size in (64, 32):
                made[record(lambda x: (x @ x).relu(), torch.ones(size, size, device="cuda"))] = size, record._pool
            (_, one), (_, other) = made.values()
            assert one == other
            for replay, (size, _) in made.items():
                assert float(replay()[0, 0]) == size

    def test_ram_with_graphs_gives_the_golden_answers(self, tmp_path: Path) -> None:
        bundle = small_bundle("ram", tmp_path / "ram")
        tagger = build_tagger(bundle, choose_device("cuda"), "fp32")
        tagger.warm_up()
        images = [sample_image(64, seed) for seed in range(19)]
        alone = np.stack([tagger.forward([image])[0] for image in images])
        assert np.abs(np.stack(tagger.forward(images)) - alone).max() < 1e-3
