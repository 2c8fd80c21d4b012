"""`make fuzz`: every target in a process of its own, for its share of the time, with the counts as they come.

A child that dies, hangs or grows beyond its limit is told by its parent, who knows the input that it had in hand.
What broke a promise lies in tests/fuzz/crashes afterwards, and `make test` replays it. Exit code 1 when there was any.
"""

import argparse
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.fuzz.fuzzer import MIB, Crash, Fuzzer, write
from tests.fuzz.mutators import Parts, dumps, loads
from tests.fuzz.targets import TARGETS

BUILD = Path("build/fuzz")
HANGS_AFTER_S = 30.0
"""Without another input in that time, a child hangs."""
CHILD_MIB = 6144
"""Address space of a child: a decoder that wants more fails in it, and not on this machine."""


@dataclass
class Told:
    """What came of one target."""

    target: str
    tried: int = 0
    seconds: float = 0.0
    corpus: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    crashes: list[str] = field(default_factory=list)


def main() -> int:
    asked = _arguments()
    BUILD.mkdir(parents=True, exist_ok=True)
    if asked.child:
        _be_child(asked.child, asked.seconds, asked.seed)
        return 0
    names = [name for name in TARGETS if not asked.only or name in asked.only.split(",")]
    share_s = asked.minutes * 60 / len(names)
    _say(f"{len(names)} targets, {share_s:.0f} s each, seed {asked.seed}")
    tolds = [_told(name, share_s, asked.seed) for name in names]
    _report(tolds, asked.seed)
    return int(any(told.crashes for told in tolds))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="of all targets together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help=f"targets, separated by commas: {', '.join(TARGETS)}")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    return parser.parse_args()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# ---- the parent ---------------------------------------------------------------------------------------------------


def _told(name: str, seconds: float, seed: int) -> Told:
    """Fuzz one target; a child that dies is followed by another with the next seed for the time that is left."""
    told = Told(name)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and len(told.crashes) < 10:
        for file in (_told_file(name), _current(name)):
            file.unlink(missing_ok=True)
        story = _watched(name, left, seed)
        _add(told, name)
        if story and _current(name).exists():
            crash = Crash(name, loads(_current(name).read_bytes()), story)
            told.crashes.append(f"{write(crash)}: {story}")
        elif story:
            told.crashes.append(story)
            break
        seed += 1_000_003
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(told.outcomes).most_common(6))
    _say(f"{name}: {told.tried:,} inputs, {told.corpus} kept; {kinds}")
    for crash_told in told.crashes:
        _say(f"  BROKEN {crash_told}")
    return told


def _watched(name: str, seconds: float, seed: int) -> str:
    """Run a child to its end; what it died of, or nothing."""
    command = [sys.executable, "-m", "tests.fuzz", "--child", name, "--seconds", str(seconds), "--seed", str(seed)]
    with (BUILD / f"{name}.log").open("wb") as said:  # what libraries in C write, and a child's last words
        child = subprocess.Popen(command, stderr=said, preexec_fn=_limited, start_new_session=True)
    began = time.time()
    try:
        while child.poll() is None:
            time.sleep(0.2)
            moved = _current(name).stat().st_mtime if _current(name).exists() else began
            if time.time() - max(moved, began) > HANGS_AFTER_S:
                return f"no end after {HANGS_AFTER_S:g} s"
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if child.returncode < 0:
        return f"it ended the process: {signal.Signals(-child.returncode).name}"
    return f"it ended the process with {child.returncode}" if child.returncode else ""


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_MIB * MIB, CHILD_MIB * MIB))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _add(told: Told, name: str) -> None:
    """What a child has told so far."""
    if not _told_file(name).exists():
        return
    more = Told(**json.loads(_told_file(name).read_text()))
    told.tried += more.tried
    told.seconds += more.seconds
    told.corpus = max(told.corpus, more.corpus)
    told.outcomes = dict(Counter(told.outcomes) + Counter(more.outcomes))
    told.crashes += more.crashes


def _report(tolds: list[Told], seed: int) -> None:
    rows = [
        f"| {told.target} | {told.tried:,} | {told.corpus} | {len(told.crashes)} | "
        + ", ".join(f"{kind}: {count:,}" for kind, count in Counter(told.outcomes).most_common(12))
        + " |\n"
        for told in tolds
    ]
    head = "| target | inputs | kept for new lines | broken | what came of them |\n|---|---|---|---|---|\n"
    found = "".join(f"- `{crash}`\n" for told in tolds for crash in told.crashes)
    total = sum(told.tried for told in tolds)
    path = BUILD.parent / "fuzz-report.md"
    path.write_text(f"# Inputs tried\n\n{total:,} inputs, seed {seed}.\n\n{head}{''.join(rows)}\n{found}")
    _say(f"{total:,} inputs in all; {path}")


def _told_file(name: str) -> Path:
    return BUILD / f"{name}.json"


def _current(name: str) -> Path:
    return BUILD / f"{name}.current"


# ---- a child ------------------------------------------------------------------------------------------------------


def _be_child(name: str, seconds: float, seed: int) -> None:
    def before(parts: Parts) -> None:
        current.seek(0)
        current.truncate()
        current.write(dumps(parts))
        current.flush()

    def tell(every_s: float = 2.0) -> None:
        if time.monotonic() - told_at[0] < every_s:
            return
        told_at[0] = time.monotonic()
        crashes = [f"{write(crash)}: {crash.story.strip().splitlines()[-1][:300]}" for crash in fuzzer.crashes]
        told = Told(name, fuzzer.tried, told_at[0] - began, len(fuzzer.corpus), dict(fuzzer.outcomes), crashes)
        fresh = _told_file(name).with_suffix(".new")
        fresh.write_text(json.dumps(asdict(told)))
        fresh.replace(_told_file(name))

    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    told_at = [0.0]
    fuzzer = Fuzzer(TARGETS[name], seed, before)
    with _current(name).open("wb") as current:
        fuzzer.run(seconds, each=tell)
    tell(0.0)
    TARGETS[name].close()


if __name__ == "__main__":
    raise SystemExit(main())
