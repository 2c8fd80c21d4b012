"""`make test` and `make unit` (scripts/run_tests.py)."""

import ast
from collections.abc import Iterator

import pytest

from scripts.run_tests import CHECKOUT, COMMON, HOMES, Home, unaffected


@pytest.mark.parametrize(
    ("changed", "left_out"),
    [
        (None, []),
        ([], ["training", "deploy"]),
        (["workers/pipeline/worker.py", "README.md"], ["training", "deploy"]),
        (["training/tagstream_train/fit/run.py"], ["deploy"]),
        (["deploy/k8s/base/worker.yaml"], ["training"]),
        (["README.md", "workers/models/load.py"], []),
        (["pyproject.toml"], []),
    ],
)
def test_a_home_is_left_out_where_no_file_that_it_covers_changed(
    changed: list[str] | None, left_out: list[str]
) -> None:
    assert unaffected(changed) == left_out


@pytest.mark.slow
@pytest.mark.parametrize("home", HOMES.values(), ids=HOMES.keys())
def test_a_home_covers_each_module_that_its_tests_import(home: Home) -> None:
    assert [path for path in sorted(set(imported(home))) if not path.startswith(COMMON + home.covers)] == []


def imported(home: Home) -> Iterator[str]:
    """Paths of the project's modules that the tests, and their helpers, import."""
    code = CHECKOUT / home.tests
    for file in (code.parent if home.tests == "training/tests" else code).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield from paths(node.module, [alias.name for alias in node.names])


def paths(module: str, names: list[str]) -> Iterator[str]:
    for path in (*(f"{module}.{name}".replace(".", "/") for name in names), module.replace(".", "/")):
        for root in (".", "index", "testing", "training"):
            relative = f"{root}/{path}.py".removeprefix("./")
            if (CHECKOUT / relative).exists():
                yield relative
