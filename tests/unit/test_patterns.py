"""No regular expression of ours takes more than linear time: each is fed a quarter of a megabyte of its worst.

The worst is searched for, not known: each beginning of a match, followed by a repetition of the characters that the
pattern itself names (near misses). What takes longest on 600 characters is then doubled up to a quarter of a megabyte,
and no doubling may cost three times as much. (pydantic's `pattern=` runs on an engine that is linear by construction.)
"""

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, find, settings
from hypothesis.strategies import from_regex

from tests.support.growth import LINEAR, NOTICED_S, SUSPECT, growth, processor_s

ROOT = Path(__file__).parents[2]
LONGEST = 1 << 18
LONG_S = 0.02
"""For two dozen characters, which take a pattern in linear time some microseconds."""
QUICKLY = settings(database=None, derandomize=True, max_examples=50, phases=[Phase.generate])
"""The first match will do: to make it smaller takes forty times as long, and it is small in nearly all patterns."""
METHODS = ("match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer")


class Use(NamedTuple):
    """A pattern and one method that it is called by."""

    place: str
    pattern: str | bytes
    flags: int
    method: str


def uses() -> list[Use]:
    """Every pattern in schemas/ and workers/, with the methods that its module calls it by."""
    files = sorted(path for package in ("schemas", "workers") for path in (ROOT / package).rglob("*.py"))
    return sorted({use for path in files for use in _uses_in(path)}, key=str)


def _uses_in(path: Path) -> Iterator[Use]:
    place = str(path.relative_to(ROOT))
    text = path.read_text(encoding="utf-8")
    if "import re\n" not in text:
        return
    nodes = list(ast.walk(ast.parse(text)))
    calls = [(node, node.func) for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    names = {id(node.value): ast.unparse(node.targets[0]) for node in nodes if isinstance(node, ast.Assign)}
    called = [(ast.unparse(func.value), func.attr) for _, func in calls if func.attr in METHODS]
    for node, func in calls:
        if ast.unparse(func.value) != "re" or func.attr not in (*METHODS, "compile"):
            continue
        name = names.get(id(node))
        # A pattern without a name stands in a table, and is called by the name of a variable.
        of_a_table = [
            attr for owner, attr in called if owner.isidentifier() and owner.islower() and attr in METHODS[:3]
        ]
        compiled = [attr for owner, attr in called if owner == name] if name is not None else of_a_table
        for pattern in _patterns(node, path):
            for method in [func.attr] if func.attr != "compile" else compiled or ["search"]:
                yield Use(place, pattern.pattern, pattern.flags, method)


def _patterns(node: ast.Call, path: Path) -> list[re.Pattern[Any]]:
    """Compiled as the call does; one that is put together at run time is looked up in its module."""
    try:
        pattern = ast.literal_eval(node.args[0])
    except ValueError:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found = list(_held(vars(importlib.import_module(name)).values()))
        assert found, f"{path}:{node.lineno}: write this pattern down, so that it can be looked at"
        return found
    named = [argument.attr for argument in ast.walk(node) if isinstance(argument, ast.Attribute)]
    flags = [getattr(re, name) for name in named if isinstance(getattr(re, name, None), re.RegexFlag)]
    return [re.compile(pattern, sum(flags))]


def _held(values: Any) -> Iterator[re.Pattern[Any]]:
    for value in values:
        if isinstance(value, re.Pattern):
            yield value
        elif isinstance(value, tuple | list):
            yield from _held(value)


class Attack(NamedTuple):
    """`start`, then `pump` again and again, then `end`."""

    start: str
    pump: str
    end: str

    def text(self, length: int, like: str | bytes) -> Any:
        made = self.start + self.pump * (length // len(self.pump)) + self.end
        return made if isinstance(like, str) else made.encode("latin-1", "replace")


NAMED = {r"\s": " ", r"\d": "1", r"\w": "a", ".": "x"}


def attacks(pattern: str | bytes, flags: int) -> list[Attack]:
    source = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    letters = sorted({NAMED.get(each, each[-1]) for each in re.findall(r"(?s)\\?.", source)} - set("[]{}^$*"))[:20]
    shorter = re.compile(re.sub(r"\{\d{3,}", "{9", source), flags)
    match = find(from_regex(shorter), bool, settings=QUICKLY)
    pumps = letters + ["".join(pair) for pair in product(letters, repeat=2)] + [match]
    starts = {match[:end] for end in range(min(len(match), 12) + 1)}
    return [Attack(start, pump, end) for start in sorted(starts) for pump in pumps for end in ("", "\0", "\n")]


def call(use: Use, text: Any) -> Callable[[], object]:
    method = getattr(re.compile(use.pattern, use.flags), use.method)
    if use.method.startswith("sub"):
        return lambda: method("" if isinstance(use.pattern, str) else b"", text)
    return (lambda: list(method(text))) if use.method == "finditer" else (lambda: method(text))


def seconds(use: Use, text: Any) -> float:
    return processor_s(call(use, text))


def steepest(use: Use) -> tuple[float, Attack, int]:
    """The steepest growth: how many times as long twice the text takes, of which text and length."""
    tried = attacks(use.pattern, use.flags)
    for length, attack in product(range(17, 26), worst_of(use, tried, 16, 10)):  # exponential ones, while it is cheap
        text = attack.text(length, use.pattern)
        if seconds(use, text) > LONG_S and seconds(use, text) > LONG_S:
            return float("inf"), attack, length
    worst = worst_of(use, tried, 600, 3)
    found = (0.0, worst[0], 0)
    for attack in worst:
        found = max(found, _steepest_of(use, attack))
        if found[0] > LINEAR:
            break
    return found


def worst_of(use: Use, tried: list[Attack], length: int, count: int) -> list[Attack]:
    """Those that take longest with texts of this length."""
    return sorted(tried, key=lambda attack: -seconds(use, attack.text(length, use.pattern)))[:count]


def _steepest_of(use: Use, attack: Attack) -> tuple[float, Attack, int]:
    """Each length is measured once, and more often only where its time looks worse than linear: what grows faster does
    so at every doubling."""
    steepest, length = 0.0, 1_000
    whole = call(use, attack.text(length, use.pattern))
    took_s = processor_s(whole)
    while length < LONGEST and steepest < LINEAR:
        length *= 2
        half, whole = whole, call(use, attack.text(length, use.pattern))
        half_s, took_s = took_s, processor_s(whole)
        if took_s > max(NOTICED_S, SUSPECT * half_s):
            steepest = max(steepest, growth(half, whole))
    return steepest, attack, length


@cache
def _all() -> tuple[Use, ...]:
    return tuple(uses())


def test_the_patterns_are_found() -> None:
    places = {use.place for use in _all()}
    assert {"schemas/dialects/cloudevents.py", "workers/intake/header.py", "workers/assembly/skipping.py"} <= places
    assert len(_all()) > 40


@pytest.mark.slow
@pytest.mark.parametrize("use", _all(), ids=lambda use: f"{use.place}:{use.method}:{use.pattern!r:.40}")
def test_twice_the_text_takes_less_than_three_times_as_long(use: Use) -> None:
    times, attack, length = steepest(use)
    for _ in range(2):  # a pattern's growth is there each time, a busy machine's is not
        if times >= LINEAR:
            times, attack, length = min((times, attack, length), steepest(use), key=lambda found: found[0])
    assert times < LINEAR, (
        f"{use.method} of {use.pattern!r} takes {times:.1f} times as long on twice {attack} ({length})"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"(?i)\b([a-z][a-z0-9+.-]*://[^\s?#]*)[?#]\S*", "sub"),
        (r"\s*\([^)]*\)", "sub"),
        (r"(x+)+y", "match"),
        (r".*.*", "fullmatch"),  # which only a line feed stops
    ],
)
def test_a_pattern_that_takes_longer_is_found_out(pattern: str, method: str) -> None:
    assert steepest(Use("here", pattern, 0, method))[0] > LINEAR
