"""`make mutate`: how many small changes to a module its unit tests notice, and which they do not."""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.mutation.plugin import Findings, Mutation

ROOT = Path(__file__).parents[2]


def main() -> int:
    asked = _arguments()
    if asked.into:
        return _be_child(Path(asked.modules[0]), asked)
    print(f"{'module':44} killed survived unseen left")  # noqa: T201
    for module in asked.modules:
        findings = _findings(Path(module), asked)
        _show(module, findings)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="+", help="files, such as workers/pipeline/budget.py")
    parser.add_argument("--minutes", type=float, default=5.0, help="for each module")
    parser.add_argument(
        "--tests",
        nargs="*",
        default=[],
        help="files; otherwise the unit tests that import the module, or those of its package",
    )
    parser.add_argument("--into", help=argparse.SUPPRESS)
    return parser.parse_args()


def _findings(module: Path, asked: argparse.Namespace) -> Findings | str:
    tests = asked.tests or tests_of(module)
    if not tests:
        return "no unit test imports it"
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "findings.json"
        command = [sys.executable, "-m", "tests.mutation", str(module), "--minutes", str(asked.minutes)]
        command += ["--into", str(into), "--tests", *tests]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if not into.exists():
            return (done.stdout + done.stderr)[-2_000:]
        return Findings(**json.loads(into.read_text()))


def _be_child(module: Path, asked: argparse.Namespace) -> int:
    mutation = Mutation(module, time.monotonic() + 60 * asked.minutes)
    options = ["-q", "-p", "no:cacheprovider", "--timeout=0", "-m", "not servers and not full and not chaos"]
    code = pytest.main([*options, *asked.tests], plugins=[mutation])
    if code == 0:
        Path(asked.into).write_text(json.dumps(asdict(mutation.findings)))
    return int(code)


def tests_of(module: Path) -> list[str]:
    """The unit tests that import it; if none does, all of its package."""
    name = ".".join(module.with_suffix("").parts).removesuffix(".__init__")
    files = sorted((ROOT / "tests/unit").rglob("test_*.py"))
    importing = [path for path in files if name in _imported(path)]
    beside = (ROOT / "tests/unit" / module.parts[1]).rglob("test_*.py") if len(module.parts) > 2 else ()
    return [str(path.relative_to(ROOT)) for path in importing or sorted(beside)]


def _imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _show(module: str, findings: Findings | str) -> None:
    if isinstance(findings, str):
        print(f"{module:44} {findings}", flush=True)  # noqa: T201
        return
    counts = (findings.killed, len(findings.survived), len(findings.unseen), findings.left)
    print(f"{module:44} {counts[0]:6} {counts[1]:8} {counts[2]:6} {counts[3]:4}")  # noqa: T201
    for mutant in findings.survived:
        print(f"    survived  {mutant}")  # noqa: T201
    for mutant in findings.unseen:
        print(f"    unseen    {mutant}")  # noqa: T201
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
