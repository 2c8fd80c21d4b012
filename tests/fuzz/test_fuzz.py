"""Every target for its share of the time, and every input that once broke a promise.

`make fuzz` takes minutes, with a process of its own that another outlives (see conftest.py); `make test` some seconds.
"""

import faulthandler
import os
import resource
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

from tests.fuzz import mutators
from tests.fuzz.conftest import CURRENT, MINUTES
from tests.fuzz.fuzzer import MIB, Bounds, Fuzzer, Target, checked, kept, shrunk, write
from tests.fuzz.mutators import Parts, dumps, loads
from tests.fuzz.targets import TARGETS

NAMES = [name for name in sorted(TARGETS) if name in (os.environ.get("FUZZ_ONLY") or name).split(",")]
SECONDS = MINUTES * 60 / len(NAMES) or 0.5
"""For each target, besides its seeds."""
HANGS_AFTER_S = 30.0
"""Without another input in that time, a process hangs."""
MOST_MIB = 6144
"""Address space of a process: a decoder that wants more fails in it, and not on this machine."""

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module", params=NAMES)
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    yield TARGETS[request.param]
    TARGETS[request.param].close()


def test_no_input_breaks_a_promise(target: Target) -> None:
    fuzzer = watched(target) if MINUTES else Fuzzer(target, seed=1, shrink_s=2)
    fuzzer.run(SECONDS)
    if MINUTES:
        faulthandler.cancel_dump_traceback_later()
        (CURRENT / target.name).unlink()
        report(fuzzer)
    assert fuzzer.tried >= 10
    assert not fuzzer.crashes, "\n".join(f"{crash.parts!r:.500}\n{crash.story}" for crash in fuzzer.crashes)


def watched(target: Target) -> Fuzzer:
    """Bounded in memory and in time for each input, which lies in a file before it is tried."""

    def before(parts: Parts) -> None:
        (CURRENT / target.name).write_bytes(dumps(parts))
        faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)

    resource.setrlimit(resource.RLIMIT_AS, (MOST_MIB * MIB, MOST_MIB * MIB))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return Fuzzer(target, int(os.environ.get("FUZZ_SEED") or 1), before)


def report(fuzzer: Fuzzer) -> None:
    """Keep what broke a promise, and add a row to the table."""
    for crash in fuzzer.crashes:
        write(crash)
    outcomes = ", ".join(f"{kind}: {count:,}" for kind, count in Counter(fuzzer.outcomes).most_common(12))
    row = (fuzzer.target.name, f"{fuzzer.tried:,}", len(fuzzer.corpus), len(fuzzer.crashes), outcomes)
    with CURRENT.with_name("fuzz-report.md").open("a") as table:
        table.write(f"| {' | '.join(map(str, row))} |\n")


def test_no_input_that_once_broke_a_promise_does_so_again(target: Target) -> None:
    for path, parts in kept(target.name):
        assert checked(target, parts), path


# ---- the fuzzer itself --------------------------------------------------------------------------------------------


def _breaks(parts: Parts) -> str:
    if b"!" in parts[0]:
        raise LookupError("found it")
    return "sound"


def test_what_raises_is_found_and_made_small() -> None:
    fuzzer = Fuzzer(Target("toy", lambda: [(b"a" * 100 + b"!" + b"b" * 100, b"header")], _breaks), seed=1)
    fuzzer.run(0.0)
    [crash] = fuzzer.crashes
    assert crash.parts == (b"!",)
    assert "found it" in crash.story


def test_what_takes_more_than_linear_time_is_found() -> None:
    def quadratic(parts: Parts) -> str:
        return "yes" if sum(1 for one in parts[0] for other in parts[0] if one == other == 7) else "no"

    fuzzer = Fuzzer(Target("toy", lambda: [(b"a" * 8000,)], quadratic, bounds=Bounds(seconds=0.1)), seed=1, shrink_s=0)
    fuzzer.run(0.0)
    assert "of the processor" in fuzzer.crashes[0].story


def test_what_takes_too_much_memory_is_found() -> None:
    fuzzer = Fuzzer(Target("toy", lambda: [(b"a",)], lambda parts: str(len(bytearray(64 << 20)))), seed=1, shrink_s=0)
    fuzzer.run(0.0)
    assert "MiB of memory" in fuzzer.crashes[0].story


def test_the_same_seed_tries_the_same_inputs() -> None:
    def tried() -> list[Parts]:
        seen: list[Parts] = []
        Fuzzer(Target("toy", lambda: [(b'{"a": [1, "x"]}', b"h")], lambda _: "ok"), 7, seen.append).run(60, inputs=200)
        return seen

    assert tried() == tried()


def test_an_input_that_reaches_new_lines_is_kept_to_go_on_from() -> None:
    target = TARGETS["messages"]
    fuzzer = Fuzzer(target, seed=1)
    fuzzer.run(60, inputs=300)
    assert len(fuzzer.corpus) > len(list(target.seeds()))


def test_an_input_comes_back_from_its_file_as_it_was() -> None:
    parts: Parts = (b"", b"5:hello,", bytes(range(256)))
    assert loads(dumps(parts)) == parts


def test_no_mutation_makes_a_part_that_is_much_larger_than_allowed() -> None:
    random = Random(1)
    parts: Parts = (b'{"Records": [{"a": "b"}, 1]}', b"x" * 1000)
    for _ in range(500):
        parts = mutators.anything(random, parts) or parts
        assert all(len(part) <= 2 * mutators.LARGEST for part in parts)


def test_shrinking_keeps_what_breaks() -> None:
    assert shrunk((b"abcXdef", b"ghi"), lambda parts: b"X" in b"".join(parts)) == (b"X",)
