"""Run the tests as two pytest processes side by side, with one exit status.

    make test               worker and index, and the homes of whose files some changed; ALL=1: every home
    make unit               without servers and slow tests: one half needs torch, the other may not import it

Arguments after the name go to both processes, and then no home is left out. The first half's output is shown as it
comes, the second's when both have ended. JUnit files go to build/junit.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

CHECKOUT = Path(__file__).resolve().parents[1]
GREEN = Path("build/green")
"""The commit of the last `.ci/run` that passed."""
NO_TESTS = 5

SELECTED = "not full and not chaos and not kube and not dashboards and not sinks and not image"
QUICK = f"not servers and not slow and {SELECTED}"
SPREAD = ("--dist", "loadfile", "--no-loadscope-reorder")
REPORT = ("--durations=15", "--durations-min=1")

WITH_TORCH = (
    "tests/unit/models",
    "tests/unit/assembly",
    "tests/unit/cli",
    "tests/unit/benchmarks",
    "tests/unit/audit/test_judge.py",
    "tests/unit/retag/test_as_written.py",
    "tests/unit/retag/test_rescoring.py",
    "tests/unit/test_bounds_of_text.py",
    "ocr/tests",
    "remote/tests",
    "training/tests/unit",
)
"""Unit tests that need torch, whose import takes two seconds."""
WAITING = ("tests/unit/backends", "tests/unit/service", "testing/tests")
"""Unit tests that wait as long as they compute: beside those above, so that both halves take equally long."""
OTHERS = ("tests/unit", "index/tests/unit")
"""The other unit tests, once those above are left out."""
WITHOUT_SERVERS = (
    *("index/tests/unit/", "ocr/tests/", "remote/tests/", "testing/tests/fakes/", "testing/tests/local/"),
    "training/tests/unit/",
    *("tests/fuzz/", "tests/model/", "tests/parity/"),
    *(f"tests/unit/{name}/" for name in ("audit", "benchmarks", "capacity", "deploy", "intake", "models", "pipeline")),
    *(f"tests/unit/{name}/" for name in ("republish", "retag", "schemas", "service", "settings")),
)
"""Folders without a test that uses servers, whose collection takes as long as some tests (tests/fixtures.py checks)."""
LONGEST = (
    *("index/tests/integration/test_run.py", "index/tests/integration/test_browser.py"),
    *("testing/tests/integration/test_demo.py", "testing/tests/integration/test_local_stack.py"),
    *("tests/hostile/test_hostile.py", "tests/integration/test_retag_go.py", "tests/parity/test_bundles.py"),
    *("tests/unit/benchmarks/test_gpu.py", "tests/unit/cli/test_on_servers.py", "tests/unit/cli/test_run.py"),
    *("tests/unit/intake/test_memory_estimates.py", "tests/unit/intake/test_processes_deaths.py"),
    *("tests/unit/models/test_compiler.py", "training/tests/"),
)
"""Files of more than 40 s: they come first, so that none is left alone at the end (tests/fixtures.py)."""
PROCESSES = "3"
"""Of each half. Half of a test's time is waiting: for servers, child processes and clocks."""


@dataclass(frozen=True)
class Home:
    """Tests that `make test` leaves out where nothing that they cover changed.

    Args:
        tests: their folder.
        covers: how the paths of covered files begin.
    """

    tests: str
    covers: tuple[str, ...]


COMMON = (
    ".github/",
    "Makefile",
    "conftest.py",
    "pyproject.toml",
    "requirements",
    "schemas/",
    "scripts/run_tests.py",
    "testing/",
    "tests/fixtures.py",
    "tests/support/",
    "workers/errors.py",
    "workers/settings.py",
)
"""What all tests stand on."""
HOMES: Mapping[str, Home] = {
    "training": Home(
        "training/tests",
        (
            "examples/learn/",
            "training/",
            "tests/unit/cli/conftest.py",
            "tests/unit/models/",
            "tests/unit/schemas/",
            "workers/__init__.py",
            "workers/assembly/",
            "workers/backends/",
            "workers/cli/",
            "workers/environment.py",
            "workers/files.py",
            "workers/intake/",
            "workers/models/",
            "workers/page/",
            "workers/ports.py",
            "workers/types.py",
        ),
    ),
    "deploy": Home(
        "tests/unit/deploy",
        (
            ".dockerignore",
            "Dockerfile",
            "deploy/",
            "docker-compose.yml",
            "docs/",
            "index/",
            "scripts/",
            "tests/unit/deploy/",
            "workers/__init__.py",
            "workers/assembly/",
            "workers/backends/",
            "workers/capacity.py",
            "workers/cli/",
            "workers/environment.py",
            "workers/intake/",
            "workers/metrics.py",
            "workers/models/",
            "workers/pipeline/pipeline.py",
            "workers/service/",
        ),
    ),
}


def main(suite: str, *arguments: str) -> int:
    os.chdir(CHECKOUT)
    (CHECKOUT / "build" / "junit").mkdir(parents=True, exist_ok=True)
    if suite == "unit":
        return side_by_side(suite, unit_halves(), arguments)
    compile_once()
    everything, arguments = "--all" in arguments, tuple(each for each in arguments if each != "--all")
    left_out = [] if everything or arguments else unaffected(changed_files())
    if left_out:
        say(f"Left out, as nothing that they cover changed: the tests of {' and '.join(left_out)} (ALL=1 runs them).")
    return side_by_side(suite, test_halves(), (*ignoring(left_out), *arguments))


def compile_once() -> None:
    """In a fresh checkout, compile what the tests import, which each of their processes would do at the same time."""
    if not sys.dont_write_bytecode and not (CHECKOUT / "tests" / "__pycache__").exists():
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
        subprocess.run(command, stdout=subprocess.DEVNULL)


def ignoring(homes: Sequence[str]) -> list[str]:
    """What pytest takes to leave out their tests. It collects a folder of `testpaths` that `--ignore` names."""
    return [f"--ignore-glob={HOMES[name].tests}/*" for name in homes]


def test_halves() -> Mapping[str, Sequence[str]]:
    """Tests that wait for servers, and those that compute."""
    others = [f"--ignore={folder}" for folder in WITHOUT_SERVERS]
    return {
        "servers": ("-m", f"servers and {SELECTED}", "-n", PROCESSES, *others, *SPREAD, *REPORT),
        "computing": ("-m", f"not servers and {SELECTED}", "-n", PROCESSES, *SPREAD, *REPORT),
    }


def unit_halves() -> Mapping[str, Sequence[str]]:
    quick = ("-q", "-m", QUICK)
    first = (*WITH_TORCH, *WAITING)
    without = (*OTHERS, *(f"--ignore={path}" for path in first))
    return {
        "torch": (*first, *quick),
        "no-torch": ("-p", "tests.support.no_torch", *without, *quick),
    }


def unaffected(changed: Iterable[str] | None) -> list[str]:
    """The homes that cover none of the changed files; None: unknown, so all are affected."""
    if changed is None:
        return []
    return [name for name, home in HOMES.items() if not any(each.startswith(COMMON + home.covers) for each in changed)]


def changed_files() -> list[str] | None:
    """Paths that differ from origin/main, or from the last green `.ci/run` where HEAD is origin/main; None: unknown."""
    main, head = git("merge-base", "origin/main", "HEAD"), git("rev-parse", "HEAD")
    known = main if main and main != head else GREEN.read_text().strip() if GREEN.exists() else None
    differing = git("diff", "--name-only", "--no-renames", known) if known else None
    fresh = git("ls-files", "--others", "--exclude-standard")
    return None if differing is None or fresh is None else [*differing.splitlines(), *fresh.splitlines()]


def git(*arguments: str) -> str | None:
    """What git says; None if it fails, for example without a repository or that commit."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.stdout.strip() if done.returncode == 0 else None


def side_by_side(suite: str, halves: Mapping[str, Sequence[str]], arguments: Sequence[str]) -> int:
    """Run both, and answer the first status that is a failure. One half without tests is none, both are."""
    first, second = halves
    log = Path("build") / f"{suite}-{second}.log"
    say(f"==> {first}; beside it {second}, into {log} until both have ended")
    with log.open("wb") as output:
        running = [start(suite, first, halves[first], arguments)]
        running.append(start(suite, second, halves[second], arguments, output))
        codes = ended(running)
    say(f"\n==> {second}")
    sys.stdout.buffer.write(log.read_bytes())
    sys.stdout.flush()
    return next((code for code in codes if code not in (0, NO_TESTS)), min(codes))


def start(
    suite: str, half: str, own: Sequence[str], others: Sequence[str], output: BinaryIO | None = None
) -> subprocess.Popen[bytes]:
    color = ("--color=yes",) if sys.stdout.isatty() else ()
    command = [sys.executable, "-m", "pytest", *own, *color, f"--junitxml=build/junit/{suite}-{half}.xml", *others]
    return subprocess.Popen(command, stdout=output, stderr=output)


def ended(running: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """The exit statuses. Ctrl-C reaches both by itself; they end what they started, and are waited for."""
    try:
        return [process.wait() for process in running]
    except KeyboardInterrupt:
        return [process.wait() for process in running]


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
