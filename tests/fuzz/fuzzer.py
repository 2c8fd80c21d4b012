"""A small fuzzer: seeds, mutators, a corpus that grows with reached lines, and promises to break.

A target runs one input and returns the result in a few words. An input breaks a promise when it raises, takes more time
or memory than the target's limits for its size, or ends the process (which only another process can see:
`tests/fuzz/conftest.py`). The fuzzer makes such an input smaller and keeps it.
"""

import contextlib
import gc
import hashlib
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import CodeType, FrameType
from typing import Any

from tests.fuzz import mutators
from tests.fuzz.mutators import Parts, dumps, loads

CRASHES = Path(__file__).parent / "crashes"
MIB = 1 << 20
_CORPUS = 2000
_SMALL = 20_000
"""Most bytes of an input that is traced and mutated further: larger ones take too long."""
_SENTENCE = 2000


@dataclass(frozen=True)
class Bounds:
    """The limits of an input: a constant, and a part for each of its MiB. Seconds are of the processor."""

    seconds: float = 0.25
    seconds_per_mib: float = 2.0
    mib: float = 24.0
    mib_per_mib: float = 24.0


@dataclass(frozen=True)
class Target:
    """A reader of input from outside.

    Args:
        seeds: good inputs, close to real ones.
        run: gives one input to the parser and checks the promises. Returns one of few results in a few words; raises
            if a promise is broken.
        watched: path fragments of source files; an input that reaches a new line in them is mutated further.
        close: releases the resources of `run`.
    """

    name: str
    seeds: Callable[[], Iterable[Parts]]
    run: Callable[[Parts], str]
    mutate: mutators.Mutator = mutators.anything
    watched: tuple[str, ...] = ("/schemas/", "/workers/")
    bounds: Bounds = field(default_factory=Bounds)
    close: Callable[[], None] = lambda: None


class Costly(AssertionError):
    """An input took more time or memory than its size allows."""


@dataclass(frozen=True)
class Crash:
    target: str
    parts: Parts
    story: str

    @property
    def path(self) -> Path:
        return crash_path(self.target, self.parts)


def crash_path(target: str, parts: Parts) -> Path:
    return CRASHES / target / hashlib.sha256(dumps(parts)).hexdigest()[:12]


def kept(target: str) -> Iterator[tuple[Path, Parts]]:
    for path in sorted((CRASHES / target).glob("*")):
        yield path, loads(path.read_bytes())


def _is_small(parts: Parts) -> bool:
    return sum(map(len, parts)) < _SMALL


class Fuzzer:
    """Tries inputs on one target, always the same ones for the same seed and number of inputs."""

    def __init__(
        self, target: Target, seed: int, before: Callable[[Parts], None] = lambda parts: None, shrink_s: float = 10.0
    ) -> None:
        self.target = target
        self._shrink_s = shrink_s
        self.random = Random(f"{target.name}-{seed}")
        self.before = before
        self.tried = 0
        self.outcomes: Counter[str] = Counter()
        self.crashes: list[Crash] = []
        self._places: set[str] = set()
        self.corpus: list[Parts] = []
        self._lines = Lines(target.watched)

    def run(self, seconds: float, inputs: int = sys.maxsize, *, least: int = 0) -> None:
        """Until the time or the inputs are used up. The seeds and the least come first, whatever the time."""
        until = time.monotonic() + seconds
        for seed in self.target.seeds():
            if _is_small(seed):
                self.corpus.append(seed)
            self._try(seed)
        assert self.corpus, f"{self.target.name} has no seeds"
        while self.tried < inputs and (time.monotonic() < until or self.tried < least):
            self._try(self.target.mutate(self.random, self._chosen()))

    def _chosen(self) -> Parts:
        """Late finds more often than old ones: they lead to where no input has been."""
        if self.random.random() < 0.5:
            return self.random.choice(self.corpus)
        return self.corpus[-1 - min(int(self.random.expovariate(0.1)), len(self.corpus) - 1)]

    def _try(self, parts: Parts) -> None:
        self.before(parts)
        self.tried += 1
        with self._lines.watched() if _is_small(parts) else nullcontext(_Found()) as found:
            try:
                self.outcomes[checked(self.target, parts)] += 1
            except Exception as error:  # noqa: BLE001  # whatever it is, it is a find
                self._keep(parts, error)
        if found.new and len(self.corpus) < _CORPUS:
            self.corpus.append(parts)

    def _keep(self, parts: Parts, error: Exception) -> None:
        self.outcomes[f"BROKEN: {type(error).__name__}"] += 1
        place = _place(error)
        if place not in self._places:
            self._places.add(place)
            small = shrunk(parts, lambda smaller: self._breaks_at(smaller, place), self._shrink_s)
            self.crashes.append(Crash(self.target.name, small, "".join(traceback.format_exception(error)[-6:])))

    def _breaks_at(self, parts: Parts, place: str) -> bool:
        self.before(parts)
        try:
            checked(self.target, parts)
        except Exception as error:  # noqa: BLE001
            return _place(error) == place
        return False


def checked(target: Target, parts: Parts) -> str:
    """Run one input within the target's bounds; what seems to cost too much is measured again, alone."""
    size_mib = sum(map(len, parts)) / MIB
    bounds = target.bounds
    seconds = bounds.seconds + bounds.seconds_per_mib * size_mib
    mib = bounds.mib + bounds.mib_per_mib * size_mib
    outcome, cost = measured(lambda: target.run(parts))
    if cost.seconds <= seconds and cost.mib <= mib:
        return outcome
    with untraced():
        gc.collect()
        costs = [measured(lambda: target.run(parts))[1] for _ in range(2)]
    if (least := min(cost.seconds for cost in costs)) > seconds:
        raise Costly(f"{least:.2f} s of the processor for {size_mib:.3f} MiB; {seconds:.2f} s are allowed")
    if (least := min(cost.mib for cost in costs)) > mib:
        raise Costly(f"{least:.0f} MiB of memory for {size_mib:.3f} MiB; {mib:.0f} MiB are allowed")
    return outcome


@dataclass(frozen=True)
class Cost:
    """Seconds of the processor, and the peak memory above the memory before."""

    seconds: float
    mib: float


def measured(work: Callable[[], str]) -> tuple[str, Cost]:
    before = _reset_peak()
    began = time.process_time()
    outcome = work()
    return outcome, Cost(time.process_time() - began, (_memory("VmHWM") - before) / 1024)


def _reset_peak() -> int:
    """Let the kernel forget this process's peak memory; returns its present memory in KiB."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as forget:
        forget.write("5")
    return _memory("VmHWM")


def _memory(what: str) -> int:
    with open("/proc/self/status") as status:
        return next((int(line.split()[1]) for line in status if line.startswith(what)), 0)


def _place(error: BaseException) -> str:
    """Where it broke: finds of one place are one find."""
    if isinstance(error, Costly):
        return f"Costly {'memory' if 'memory' in str(error) else 'seconds'}"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/fuzz/fuzzer.py" not in frame.filename]
    last = ours[-1] if ours else frames[-1]
    return f"{type(error).__name__} {last.filename}:{last.lineno}"


def shrunk(parts: Parts, breaks: Callable[[Parts], bool], seconds: float = 10.0) -> Parts:
    """A smaller input that breaks the same promise, as small as can be had in that time."""
    until = time.monotonic() + seconds
    for number in reversed(range(len(parts))):
        without = parts[:number] + parts[number + 1 :]
        if time.monotonic() < until and without and breaks(without):
            parts = without
    for number in range(len(parts)):
        piece = max(1, len(parts[number]) // 2)
        while piece and time.monotonic() < until:
            at = 0
            while at < len(parts[number]) and time.monotonic() < until:
                cut = parts[number][:at] + parts[number][at + piece :]
                smaller = (*parts[:number], cut, *parts[number + 1 :])
                if breaks(smaller):
                    parts = smaller
                else:
                    at += piece
            piece //= 2
    return parts


@dataclass
class _Found:
    new: int = 0


class Lines:
    """Finds the lines of some source files that an input is the first to reach."""

    def __init__(self, watched: Sequence[str]) -> None:
        self._watched = tuple(watched)
        self._left: dict[CodeType, set[int]] = {}

    @contextmanager
    def watched(self) -> Iterator[_Found]:
        found = _Found()
        before = sys.gettrace()
        if before is None:
            sys.settrace(self._tracer(found))
        try:
            yield found
        finally:
            if before is None:
                sys.settrace(None)

    def _tracer(self, found: _Found) -> Callable[[FrameType, str, Any], Any]:
        def line(frame: FrameType, event: str, _: Any) -> Any:
            left = self._left[frame.f_code]
            if event == "line" and frame.f_lineno in left:
                left.remove(frame.f_lineno)
                found.new += 1
            return line if left else None

        def call(frame: FrameType, event: str, _: Any) -> Any:
            return line if self._lines_left(frame.f_code) else None

        return call

    def _lines_left(self, code: CodeType) -> set[int]:
        left = self._left.get(code)
        if left is None:
            mine = any(part in code.co_filename for part in self._watched) and "/tests/" not in code.co_filename
            left = self._left[code] = {line for _, _, line in code.co_lines() if line} if mine else set()
        return left


@contextmanager
def untraced() -> Iterator[None]:
    """Without looking at lines, which takes time of its own."""
    before = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(before)


def sentence(error: Exception, secret: str = "") -> str:
    """The text of a documented error, fit for a log line: not empty, bounded, and without this secret."""
    text = str(error)
    assert 0 < len(text) < _SENTENCE, f"{len(text)} characters for a person: {text[:100]!r}"
    assert not secret or secret not in text, "a secret in an error"
    return text


def write(crash: Crash) -> Path:
    crash.path.parent.mkdir(parents=True, exist_ok=True)
    fresh = crash.path.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(dumps(crash.parts))
    fresh.replace(crash.path)
    return crash.path
