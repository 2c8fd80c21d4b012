"""The import rules of pyproject.toml work: each case breaks one of them in a copy of the sources."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
HOMES = {
    "index": "tagstream_index",
    "ocr": "tagstream_ocr",
    "remote": "tagstream_remote",
    "testing": "tagstream_testing",
    "training": "tagstream_train",
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("checkout")
    shutil.copy(CHECKOUT / "pyproject.toml", target)
    for folder in ("workers", "schemas", *(f"{home}/{package}" for home, package in HOMES.items())):
        package = Path(folder).name
        shutil.copytree(CHECKOUT / folder, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def check(checkout: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.prefix) / "bin" / "lint-imports"
    return subprocess.run([program, "--no-cache"], cwd=checkout, capture_output=True, text=True, timeout=100)


FORBIDDEN = [
    ("workers/pipeline/spoiled.py", "import torch"),
    ("workers/retag/spoiled.py", "import torch"),
    ("workers/metrics.py", "import torch"),
    ("workers/assembly/spoiled.py", "import workers.cli.terminal"),
    ("workers/assembly/spoiled.py", "import rich"),
    ("tagstream_train/spoiled.py", "import workers.cli.emit"),
    ("tagstream_index/indexer.py", "import workers.cli.terminal"),
    ("tagstream_index/page/spoiled.py", "import tagstream_index.search_cli"),
    ("tagstream_index/spoiled.py", "import torch"),
    ("workers/intake/spoiled.py", "import redis"),
    ("tagstream_testing/local/spoiled.py", "import kafka"),
    ("workers/backends/spoiled.py", "import workers.pipeline"),
    ("tagstream_testing/spoiled.py", "import tagstream_train"),
    ("workers/cli/spoiled.py", "import tagstream_testing.local.stack"),
    ("workers/models/spoiled.py", "import tagstream_testing"),
    ("workers/cli/spoiled.py", "import tagstream_index"),
    ("workers/models/spoiled.py", "import tagstream_ocr"),
    ("workers/assembly/spoiled.py", "import tagstream_remote"),
    ("tagstream_ocr/spoiled.py", "import workers.cli.terminal"),
    ("tagstream_index/spoiled.py", "import tagstream_testing"),
    ("tagstream_index/spoiled.py", "import redis"),
    ("workers/types.py", "import workers.ports"),
    ("schemas/spoiled.py", "import workers.types"),
    ("tagstream_train/pretrain/spoiled.py", "def late():\n    import tagstream_train.retrieval.finetune"),
]


def test_each_forbidden_import_is_found(copy: Path) -> None:
    """All at once: a run takes as long for one as for many."""
    for module, line in FORBIDDEN:
        with (copy / module).open("a") as spoiled:
            spoiled.write(f"\n\n{line}\n")
    answer = check(copy)
    assert answer.returncode == 1, answer.stdout
    found = re.findall(r"(\S+) -> (\S+) \(", answer.stdout)
    broken = [(module.removesuffix(".py").replace("/", "."), line.split()[-1]) for module, line in FORBIDDEN[:-1]]
    assert [each for each in (*broken, (".pretrain", ".retrieval")) if each not in found] == [], answer.stdout


def test_only_the_environment_module_reads_our_variables() -> None:
    """Ruff forbids os.environ, except in modules of pyproject.toml that need variables of other programs."""
    root = Path(__file__).parents[2]
    others = ("index/tagstream_index", "ocr/tagstream_ocr", "remote/tagstream_remote", "training/tagstream_train")
    homes = ("workers", "schemas", *others)
    files = [path for home in homes for path in (root / home).rglob("*.py")]
    read = {
        (str(path.relative_to(root)), name)
        for path in files
        for name in re.findall(
            r"(?:environ(?:\.get\(|\[)|getenv\()\"(TAGSTREAM_\w+)\"(?!\] =)", path.read_text("utf-8")
        )
    }
    assert read == {("workers/environment.py", "TAGSTREAM_LOG_FORMAT")}


def imports(home: Path, package: str) -> dict[str, set[str]]:
    """The modules of a package that each of its modules imports: in functions and for types alone too."""
    paths = {}
    for path in home.rglob("*.py"):
        parts = (package, *path.relative_to(home).with_suffix("").parts)
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found: dict[str, set[str]] = {}
    for module, path in paths.items():
        package_parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        named = set[str]()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                named |= {each.name for each in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = package_parts[: len(package_parts) - node.level + 1] if node.level else []
                source = ".".join([*above, *([node.module] if node.module else [])])
                inside = {f"{source}.{each.name}" for each in node.names} & paths.keys()
                named |= inside or {source}
        found[module] = named & paths.keys() - {module}
    return found


@pytest.mark.parametrize("home", ["workers", "schemas", *(f"{home}/{package}" for home, package in HOMES.items())])
def test_no_module_imports_itself_by_way_of_others(home: str) -> None:
    left = imports(CHECKOUT / home, Path(home).name)
    while leaves := {module for module, named in left.items() if not named & left.keys()}:
        left = {module: named for module, named in left.items() if module not in leaves}
    assert {module: sorted(named & left.keys()) for module, named in left.items()} == {}
