"""Every target for its share of the time, and every input that once broke a promise.

`make fuzz` takes minutes, with a process of its own that another outlives (see conftest.py); `make test` some seconds.
"""

import faulthandler
import os
import resource
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.fuzz.conftest import CURRENT, MINUTES
from tests.fuzz.fuzzer import MIB, Fuzzer, Target, checked, kept, write
from tests.fuzz.mutators import Parts, dumps
from tests.fuzz.targets import TARGETS

NAMES = [name for name in sorted(TARGETS) if name in (os.environ.get("FUZZ_ONLY") or name).split(",")]
SECONDS = MINUTES * 60 / len(NAMES) or 0.5
"""For each target, in addition to its seeds."""
HANGS_AFTER_S = 30.0
"""Without another input in that time, a process hangs."""
MOST_MIB = 6144
"""Address space of a process: a decoder that wants more fails in it, and not on this machine."""

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]


@pytest.fixture(scope="module", params=NAMES)
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    yield TARGETS[request.param]
    TARGETS[request.param].close()


def test_no_input_breaks_a_promise(target: Target) -> None:
    fuzzer = watched(target) if MINUTES else Fuzzer(target, seed=1, shrink_s=2)
    fuzzer.run(SECONDS, least=10)
    if MINUTES:
        faulthandler.cancel_dump_traceback_later()
        (CURRENT / target.name).unlink()
        report(fuzzer)
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
    for crash in fuzzer.crashes:
        write(crash)
    outcomes = ", ".join(f"{kind}: {count:,}" for kind, count in Counter(fuzzer.outcomes).most_common(12))
    row = (fuzzer.target.name, f"{fuzzer.tried:,}", len(fuzzer.corpus), len(fuzzer.crashes), outcomes)
    with CURRENT.with_name("fuzz-report.md").open("a") as table:
        table.write(f"| {' | '.join(map(str, row))} |\n")


def test_no_input_that_once_broke_a_promise_does_so_again(target: Target) -> None:
    for path, parts in kept(target.name):
        assert checked(target, parts), path


def test_an_input_that_reaches_new_lines_is_kept_as_a_start_for_others() -> None:
    target = TARGETS["messages"]
    fuzzer = Fuzzer(target, seed=1)
    fuzzer.run(60, inputs=300)
    assert len(fuzzer.corpus) > len(list(target.seeds()))
