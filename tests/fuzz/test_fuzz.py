"""Some seconds of what `make fuzz` does for ten minutes, and every input that once broke a promise."""

from collections.abc import Iterator
from random import Random

import pytest

from tests.fuzz import mutators
from tests.fuzz.fuzzer import Bounds, Fuzzer, Target, checked, kept, shrunk
from tests.fuzz.mutators import Parts, dumps, loads
from tests.fuzz.targets import TARGETS

SECONDS = 0.5
"""For each target, besides its seeds."""

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module", params=sorted(TARGETS))
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    yield TARGETS[request.param]
    TARGETS[request.param].close()


def test_no_input_breaks_a_promise(target: Target) -> None:
    fuzzer = Fuzzer(target, seed=1, shrink_s=2)
    fuzzer.run(SECONDS)
    assert fuzzer.tried >= 10
    assert not fuzzer.crashes, "\n".join(f"{crash.parts!r:.500}\n{crash.story}" for crash in fuzzer.crashes)


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
