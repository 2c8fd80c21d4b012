"""Run a suite whole and keep what came of it as its row of tests/PROVED.md.

    make prove SUITE=chaos      one suite
    make prove                  each without a fresh row, one after the other, also after one that failed
    scripts/prove.py --stale    name the suites without a fresh row (make lint does); always exits 0

A row is fresh for 300 commits, if nothing failed. It names a commit, so nothing may be uncommitted. The figures come
from the JUnit files that each suite's target writes to build/junit; `soak` and `release` are one case each.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PAGE = Path("tests/PROVED.md")
JUNIT = Path("build/junit")
FRESH_COMMITS = 300
SAMPLE_S = 30

SUITES: Mapping[str, Sequence[str]] = {
    "test": ("ALL=1", "ARGS=--hypothesis-profile=proof"),
    "hostile": (),
    "sinks": (),
    "parity": (),
    "fuzz": ("MINUTES=10",),
    "dashboards": (),
    "soak": (),
    "release": (),
    "image": (),
    "kube": (),
    "chaos": (),
}
"""What make takes for each, the shortest first."""

HEAD = """# Proved

The last whole run of every suite, written by `make prove`. *Load* is the machine's load average before the run, and its
mean during the run; two cores are full at 2.

| suite | commit | day | passed | skipped | failed | minutes | load |
|---|---|---|---|---|---|---|---|
"""


@dataclass
class Result:
    """The result of one run: counts of cases, reasons of skipped ones, names of failed ones."""

    passed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", nargs="?", choices=tuple(SUITES), metavar="SUITE", help=", ".join(SUITES))
    parser.add_argument("--stale", action="store_true", help="name the suites without a fresh row, and run nothing")
    chosen = parser.parse_args()
    os.chdir(CHECKOUT)
    stale = {suite: why for suite in SUITES if (why := why_stale(suite))}
    if chosen.stale:
        for suite, why in stale.items():
            say(f"make prove SUITE={suite} is due: {why}")
        return 0
    if changed := git("status", "--porcelain", "--", ".", f":!{PAGE}"):
        say(f"A row names a commit, and these changes are in none: commit or stash them first.\n{changed}")
        return 2
    failed = [suite for suite in ([chosen.suite] if chosen.suite else stale) if not prove(suite)]
    return int(bool(failed))


def why_stale(suite: str) -> str:
    """Why the suite's row is no proof of this commit; empty: it is one, or the history to tell is not here."""
    cells = rows(PAGE.read_text() if PAGE.exists() else "").get(suite)
    if cells is None:
        return "no whole run is recorded"
    if cells[5] != "0":
        return f"its last whole run had failures ({cells[5]})"
    try:
        commits = int(git("rev-list", "--count", f"{cells[1]}..HEAD", "--"))
    except subprocess.CalledProcessError:
        return ""
    return f"its last whole run is {commits} commits old" if commits > FRESH_COMMITS else ""


def prove(suite: str) -> bool:
    """Run it, keep its row, and say whether nothing failed."""
    say(f"\n==> make {suite}")
    for old in JUNIT.glob(f"{suite}*.xml"):
        old.unlink()
    before, began, loads = os.getloadavg()[1], time.monotonic(), []
    process = subprocess.Popen(["make", suite, *SUITES[suite]])
    while (code := ended(process, SAMPLE_S)) is None:
        loads.append(os.getloadavg()[0])
    minutes = (time.monotonic() - began) / 60
    result = read(sorted(JUNIT.glob(f"{suite}*.xml")), suite, code)
    load = f"{before:.1f}, {sum(loads) / len(loads) if loads else before:.1f}"
    cells = (suite, git("rev-parse", "--short=8", "HEAD"), f"{datetime.now(UTC):%Y-%m-%d}", *shown(result))
    keep((*cells, f"{minutes:.0f}", load))
    say(f"==> {suite}: {result.passed} passed, {len(result.failed)} failed, {minutes:.0f} minutes, in {PAGE}")
    return not result.failed


def ended(process: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    """The exit status, or None while it runs."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None


def read(files: Sequence[Path], suite: str, code: int) -> Result:
    """The cases of the JUnit files. A run that failed without a failed case is one itself, as is one without files."""
    result = Result()
    for case in (case for file in files for case in ET.parse(file).iter("testcase")):
        if case.find("failure") is not None or case.find("error") is not None:
            result.failed.append(case.get("name", ""))
        elif (skipped := case.find("skipped")) is not None:
            expected = "expected failure: " if skipped.get("type") == "pytest.xfail" else ""
            result.skipped[expected + skipped.get("message", "")] += 1
        else:
            result.passed += 1
    if code and not result.failed:
        result.failed.append(f"make {suite} exited with {code}")
    elif not files:
        result.passed = 1
    return result


def shown(result: Result) -> tuple[str, str, str]:
    """Three cells: passed, skipped with reasons, failed with names."""
    reasons = "; ".join(f"{count} {reason}" for reason, count in sorted(result.skipped.items()))
    names = ", ".join(dict.fromkeys(result.failed))
    return (
        str(result.passed),
        cell(f"{result.skipped.total()}: {reasons}" if reasons else "0"),
        cell(f"{len(result.failed)}: {names}" if names else "0"),
    )


def cell(text: str) -> str:
    """On one line of a table, without paths of this machine."""
    return re.sub(r"\s+", " ", text.replace(f"{CHECKOUT}/", "")).replace("|", "\\|")


def keep(cells: Sequence[str]) -> None:
    """Write the row in place of the suite's last, in the order of SUITES."""
    kept = {**rows(PAGE.read_text() if PAGE.exists() else ""), cells[0]: list(cells)}
    PAGE.write_text(HEAD + "".join(f"| {' | '.join(kept[suite])} |\n" for suite in SUITES if suite in kept))


def rows(page: str) -> dict[str, list[str]]:
    """The cells of each suite's row."""
    lines = (re.split(r" (?<!\\)\| ", line.strip("|\n ")) for line in page.splitlines() if line.startswith("| "))
    return {cells[0]: cells for cells in lines if cells[0] in SUITES}


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    ).stdout.strip()


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
