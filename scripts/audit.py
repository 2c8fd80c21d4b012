"""Ask the database of published vulnerabilities (https://osv.dev) for every package of the locks, at their versions.

    make audit

Exit code 0: none is known. 1: some are, named with their advisories. 2: the database did not answer: nothing is known.
OSV=https://… asks a mirror of it.
"""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.request
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
OSV = "https://api.osv.dev"
TIMEOUT_S = 60
MOST_BYTES = 50_000_000


def main() -> int:
    packages = sorted({package for lock in CHECKOUT.glob("requirements*.lock") for package in pinned(lock)})
    try:
        advisories = asked(os.environ.get("OSV", OSV), packages)
    except (OSError, ValueError) as error:
        say(f"Nothing was checked: the database of vulnerabilities does not answer ({error}).")
        say("Run this where https://api.osv.dev can be reached, or name a mirror of it in OSV.")
        return 2
    for (name, version), found in zip(packages, advisories, strict=True):
        for advisory in found:
            say(f"{name} {version}: https://osv.dev/vulnerability/{advisory}")
    say(f"{len(packages)} packages, {sum(map(len, advisories))} advisories")
    return int(any(advisories))


def pinned(lock: Path) -> set[tuple[str, str]]:
    """Names and versions, without a build's own label (2.15.0+cpu), which the database lacks."""
    return set(re.findall(r"(?m)^([a-z0-9-]+)==([^\s+]+)", lock.read_text()))


def asked(address: str, packages: list[tuple[str, str]]) -> list[list[str]]:
    """The advisories of each package, in the packages' order.

    Raises:
        OSError: no answer.
        ValueError: an answer that is none, or not a whole one.
    """
    queries = [{"package": {"ecosystem": "PyPI", "name": name}, "version": version} for name, version in packages]
    request = urllib.request.Request(
        f"{address}/v1/querybatch",
        data=json.dumps({"queries": queries}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        told = json.loads(answer.read(MOST_BYTES))
    results = told.get("results") if isinstance(told, dict) else None
    if not isinstance(results, list) or len(results) != len(packages):
        raise ValueError("its answer is not one for each package")
    return [[str(each["id"]) for each in result.get("vulns", ())] for result in results]


def say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
