"""The fuzzer itself."""

from tests.fuzz.fuzzer import Bounds, Fuzzer, Target
from tests.fuzz.mutators import Parts, dumps, loads
from tests.support.apart import Apart


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

    fuzzer = Fuzzer(
        Target("toy", lambda: [(b"a" * 1000,)], quadratic, bounds=Bounds(seconds=0.005)), seed=1, shrink_s=0
    )
    fuzzer.run(0.0)
    assert "of the processor" in fuzzer.crashes[0].story


def test_what_takes_too_much_memory_is_found(apart: Apart) -> None:
    """In a process of its own: memory that an earlier test left is used again, and does not count."""
    [story] = apart(_stories_of_a_spender)
    assert "MiB of memory" in story


def _stories_of_a_spender() -> list[str]:
    fuzzer = Fuzzer(Target("toy", lambda: [(b"a",)], lambda parts: str(len(bytearray(64 << 20)))), seed=1, shrink_s=0)
    fuzzer.run(0.0)
    return [crash.story for crash in fuzzer.crashes]


def test_an_input_comes_back_from_its_file_unchanged() -> None:
    parts: Parts = (b"", b"5:hello,", bytes(range(256)))
    assert loads(dumps(parts)) == parts
