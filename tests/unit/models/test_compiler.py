"""torch's compiler: how it is called, what happens where it fails, and that it works where there is a C++ compiler."""

import logging
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.models.small import CPU, small_bundle
from tests.unit.models.tiny import build_tagger, tiny_bundle
from workers.errors import Misconfigured
from workers.models.device import EXECUTIONS, PRECISIONS, Device, Precision, choose_device
from workers.models.execution import BUCKETS, SHAPES, Compiled, Function, keep_in, leave_triton_out, try_out
from workers.models.load import BUILDERS, load_tagger
from workers.models.precision import Tuned, remember_tuned
from workers.models.ram.adapters import build_tagger as build_ram
from workers.models.ram.config import Kind
from workers.models.ram.engine import engine_of
from workers.models.tagger import sample_image

COMPILED = Device("cpu", CPU.name, "compiled")


def doubled(batch: Tensor) -> Tensor:
    return batch * 2


class Compiler:
    def __init__(self, fails: dict[int, Exception] | None = None) -> None:
        self.fails = fails or {}
        self.compiled: list[Function] = []
        self.ran: list[int] = []

    def __call__(self, function: Function) -> Function:
        self.compiled.append(function)

        def made(batch: Tensor) -> Tensor:
            if len(batch) in self.fails:
                raise self.fails[len(batch)]
            self.ran.append(len(batch))
            return function(batch)

        return made


def test_a_function_is_compiled_once_and_when_it_is_needed() -> None:
    compiler = Compiler()
    function = Compiled(doubled, compiler)
    assert compiler.compiled == []
    for rows in (1, 2):
        assert function(torch.ones(rows)).tolist() == [2.0] * rows
    assert (compiler.compiled, compiler.ran) == ([doubled], [1, 2])


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = [each for each in caplog.records if each.name.startswith("workers.")]
    return [each.getMessage() for each in ours if each.levelno >= logging.WARNING]


def test_a_model_that_cant_be_compiled_runs_plainly_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    def no_compiler(_: Function) -> Function:
        raise RuntimeError("\nno g++ here\nand much more")

    function = Compiled(doubled, no_compiler)
    for rows in (1, 2):
        assert function(torch.ones(rows)).tolist() == [2.0] * rows
    assert warnings(caplog) == [
        "torch's compiler failed, so the model runs uncompiled and slower: RuntimeError: no g++ here"
    ]


@pytest.mark.parametrize("error", [RuntimeError("no kernel"), KeyError("its own bug"), OSError("disk full")])
def test_a_shape_that_does_not_compile_ends_compiling(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    compiler = Compiler(fails={2: error})
    function = Compiled(doubled, compiler)
    for rows in (1, 2, 3):
        assert function(torch.ones(rows)).tolist() == [2.0] * rows
    assert compiler.ran == [1]
    assert len(warnings(caplog)) == 1


def test_memory_that_runs_out_is_no_failure_of_the_compiler(caplog: pytest.LogCaptureFixture) -> None:
    compiler = Compiler(fails={2: torch.OutOfMemoryError("out of memory")})
    function = Compiled(doubled, compiler)
    with pytest.raises(torch.OutOfMemoryError):
        function(torch.ones(2))
    function(torch.ones(1))
    assert (compiler.ran, warnings(caplog)) == ([1], [])


def test_an_error_of_the_functions_own_is_raised_by_it() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Compiled(lambda batch: batch @ torch.ones(7, 7), Compiler())(torch.ones(2, 3))


@pytest.mark.slow
def test_a_measurement_learns_that_a_model_cant_be_compiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def can_not(function: Function, **options: object) -> Function:
        raise RuntimeError("a graph break")

    monkeypatch.setattr("workers.models.device.try_out", lambda where: None)
    monkeypatch.setattr(torch, "compile", can_not)
    bundle = tiny_bundle(tmp_path / "tiny")
    tagger = build_tagger(bundle, CPU.executing("compiled"), "fp32")
    with pytest.raises(Misconfigured, match="torch's compiler fails: RuntimeError: a graph break"):
        tagger.warm_up()
    assert warnings(caplog) == []
    build_tagger(bundle, COMPILED, "fp32").warm_up()
    assert len(warnings(caplog)) == 1


class Torch:
    """In the place of `torch.compile`: compiles with the backend that only counts, and notes how it was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        leave_triton_out()
        from torch._dynamo import config  # here, because it takes seconds to load
        from torch._dynamo.testing import CompileCounter

        self.config: Any = config
        self.counter = CompileCounter()
        self.options: list[dict[str, Any]] = []
        self._compile: Callable[..., Function] = torch.compile
        torch.compiler.reset()
        monkeypatch.setattr(torch, "compile", self)
        config.recompile_limit = 8

    def __call__(self, function: Function, *, fullgraph: bool, dynamic: bool, options: dict[str, bool]) -> Function:
        self.options.append({"fullgraph": fullgraph, "dynamic": dynamic, **options})
        return self._compile(function, fullgraph=fullgraph, dynamic=dynamic, backend=self.counter)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "counts", "buckets"), [("ram", (1, 5, 6), 2), ("ram_plus", (5, 6), 1), ("tag2text", (5, 6), 1)]
)
def test_encoder_and_head_are_each_one_graph_for_every_bucket_and_no_other_shape(
    kind: Kind,
    counts: Sequence[int],
    buckets: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle = small_bundle(kind, tmp_path / kind)
    plain = engine_of(bundle, CPU, "fp32")
    fake = Torch(monkeypatch)
    compiled = engine_of(bundle, COMPILED, "fp32")
    for count in counts:
        images = [sample_image(64, seed) for seed in range(count)]
        with COMPILED.run():
            tokens = compiled.encode(images)
            torch.testing.assert_close(tokens, plain.encode(images), atol=1e-5, rtol=0)
            embeds = plain.model.embed(tokens)
            torch.testing.assert_close(compiled.score(embeds), plain.score(embeds), atol=1e-4, rtol=0)
    assert fake.counter.frame_count == 2 * buckets
    assert fake.options == 2 * [{"fullgraph": True, "dynamic": False, "triton.cudagraphs": False}]
    assert warnings(caplog) == []


@pytest.mark.slow
def test_more_shapes_are_compiled_than_torch_would_by_itself_and_models_that_share_code_keep_their_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Torch(monkeypatch)
    fake.config.recompile_limit = limit = 2
    images = [sample_image(64)] * limit
    trials: list[tuple[Kind, int, Sequence[int]]] = [("ram", 0, (1, 2)), ("ram", 1, (2,)), ("ram_plus", 0, (2,))]
    for kind, seed, buckets in trials:
        bundle = small_bundle(kind, tmp_path / f"{kind}-{seed}", seed=seed)
        compiled, plain = engine_of(bundle, COMPILED, "fp32"), engine_of(bundle, CPU, "fp32")
        with COMPILED.run():
            for bucket in buckets:
                found, expected = (engine.encode(images[:bucket]) for engine in (compiled, plain))
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert fake.counter.frame_count == limit + 1, "the second bundle runs the code of the first"
    assert fake.config.recompile_limit == SHAPES >= 8 * len(BUCKETS)


def test_trying_it_out_says_why_it_does_not_work() -> None:
    def none(_: Function) -> Function:
        raise ImportError("no triton")

    with pytest.raises(Misconfigured, match="torch's compiler does not work here: ImportError: no triton"):
        try_out(torch.device("cpu"), none)
    with pytest.raises(Misconfigured, match="wrong results"):
        try_out(torch.device("cpu"), lambda function: lambda x: function(x) + 1)
    try_out(torch.device("cpu"), Compiler())


def test_a_device_lists_its_executions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CPU.executions == ("eager",)
    assert Device("cuda", "a card").executions == EXECUTIONS
    with pytest.raises(Misconfigured, match="no CUDA graphs"):
        CPU.executing("graphs")
    monkeypatch.setattr("workers.models.device.try_out", lambda where: None)
    assert CPU.executing("compiled") == replace(COMPILED, strict=True)
    assert COMPILED.executing("eager") == replace(CPU, strict=True)


def test_compiled_kernels_are_in_a_folder_that_no_other_user_may_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    keep_in(tmp_path / "state" / "compiled")
    assert stat.S_IMODE((tmp_path / "state" / "compiled").stat().st_mode) == 0o700
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "state" / "compiled")
    keep_in(tmp_path / "other")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "state" / "compiled"), "a folder that is named stays"


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(Misconfigured, match="only this user may write"):
        keep_in(tmp_path / "open")
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="can't hold what torch compiles"):
        keep_in(tmp_path / "file" / "compiled")


@pytest.mark.slow
def test_a_model_starts_in_the_execution_that_was_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    bundle = tiny_bundle(tmp_path / "tiny")
    remember_tuned(Tuned(bundle.digest, "tagger", CPU.name, "fp32", 2, "compiled"), CPU, tmp_path)
    monkeypatch.setitem(BUILDERS, "tiny", "tests.unit.models.tiny")
    fake = Torch(monkeypatch)
    tagger = load_tagger(bundle.folder, device="cpu", state_dir=tmp_path)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled")
    tagger.warm_up()
    assert fake.counter.frame_count == 2, "for one image, and for two"
    plain = build_tagger(bundle, CPU, "fp32")
    images = [tagger.self_test_image()] * 2
    for found, expected in zip(tagger.forward(images), plain.forward(images), strict=True):
        assert found == pytest.approx(expected)


ON_ITS_OWN = """
import logging, sys
import torch
from torch import nn
from torch._inductor import config, metrics
from workers.models.device import Device

logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.WARNING)
network = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16)).eval().requires_grad_(False)
device = Device("cpu", "any", "compiled")

def check():
    function = device.functions()(lambda x: network(x))
    with device.run():
        x = torch.randn(3, 8)
        torch.testing.assert_close(function(x), network(x), atol=1e-5, rtol=0)

with config.patch({"cpp.cxx": (None, "no-such-compiler")}):
    check()
print("with a compiler:")
torch.compiler.reset()
check()
print("processes:", config.compile_threads, "kernels:", metrics.generated_kernel_count)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What a process of its own says without a compiler, and then with the machine's."""
    settings = {
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path_factory.mktemp("kept")),
        # Else a program is compiled, for half a minute, to see whether the instructions that the CPU has can be used.
        "TORCHINDUCTOR_VEC_ISA_OK": "1",
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
    }
    command = [sys.executable, "-c", ON_ITS_OWN]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    without, _, with_one = done.stdout.partition("with a compiler:")
    return without, with_one


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="needs a C++ compiler")
def test_torchs_own_compiler_makes_kernels_that_give_the_same(said: tuple[str, str]) -> None:
    assert "failed" not in said[1]
    assert "processes: 1 kernels" in said[1]
    assert int(said[1].rpartition("kernels: ")[2]) >= 1


@pytest.mark.slow
def test_without_a_compiler_on_the_machine_the_model_runs_all_the_same(said: tuple[str, str]) -> None:
    assert said[0].count("torch's compiler failed, so the model runs uncompiled and slower: ") == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestCuda:
    @pytest.mark.parametrize("precision", [each for each in PRECISIONS if each != "int8"])
    def test_ram_compiled_and_in_graphs_gives_the_golden_answers_in_every_batch(
        self, precision: Precision, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        tagger = build_ram(
            small_bundle("ram", tmp_path / "ram"), choose_device("cuda").executing("compiled"), precision
        )
        tagger.max_batch = 4
        tagger.warm_up()
        assert len(tagger.forward([sample_image(64)] * 4)) == 4
        assert warnings(caplog) == [], "every size was recorded"
