"""Prints what `make coverage` measured, by package."""

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path, PurePath

REPORT = Path("build/coverage.json")


def package_of(path: str) -> str:
    """`workers/intake/scan/blocks.py` → `workers/intake`; a module outside the packages belongs to their parent."""
    top, *rest = PurePath(path).parts
    return f"{top}/{rest[0]}" if top in ("workers", "index", "ocr", "testing", "training") and len(rest) > 1 else top


def main() -> None:
    packages: dict[str, Counter[str]] = defaultdict(Counter)
    for path, found in json.loads(REPORT.read_text(encoding="utf-8"))["files"].items():
        numbers = {name: value for name, value in found["summary"].items() if isinstance(value, int)}
        packages[package_of(path)].update(numbers)
    packages["**all**"] = sum(packages.values(), Counter())
    rows = [
        f"| {package} | {of['num_statements']:,} | {_share(of, 'covered_lines', 'num_statements')} "
        f"| {_share(of, 'covered_branches', 'num_branches')} |\n"
        for package, of in packages.items()
    ]
    sys.stdout.write(f"| package | statements | passed | branches taken |\n|---|---|---|---|\n{''.join(rows)}")


def _share(of: Counter[str], part: str, whole: str) -> str:
    return f"{of[part] / of[whole]:.0%}" if of[whole] else "–"


if __name__ == "__main__":
    main()
