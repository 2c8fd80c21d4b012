"""Private parts of kafka-python are used in one module, by functions that name their tests, and don't grow."""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import MappingProxyType

import kafka
import pytest

import workers
from workers.backends import kafka as kafka_package
from workers.backends.kafka import internals

PACKAGE = Path(workers.__file__).parent
INTERNALS = Path(internals.__file__)
TESTS = Path(__file__).parents[3]
PRIVATE = re.compile("_[a-z]")
MOST = 13
"""Private names of the library, and no more."""


@cache
def using_kafka() -> Mapping[Path, ast.Module]:
    return MappingProxyType({path: tree for path, tree in _trees() if any(map(_imports_kafka, ast.walk(tree)))})


def _trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in PACKAGE.rglob("*.py"):
        if "kafka" in (text := path.read_text()):
            yield path, ast.parse(text)


def _imports_kafka(node: ast.AST) -> bool:
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
    return any(name.partition(".")[0] == "kafka" for name in names)


def private_names(tree: ast.AST) -> set[str]:
    """Private attributes of anything but the object or class itself, also by name, and private imports."""
    found = set[str]()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name):
                found.add(name)
            case ast.Call(func=ast.Name(id="getattr" | "setattr" | "hasattr"), args=[_, ast.Constant(str(name)), *_]):
                found.add(name)
            case ast.ImportFrom(module=str(module), names=names) if module.partition(".")[0] == "kafka":
                found |= {*module.split("."), *(each.name for each in names)}
    return set(filter(PRIVATE.match, found))


def replaced_names(tree: ast.AST) -> set[str]:
    targets = [target for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets]
    return {
        target.attr
        for target in targets
        if isinstance(target, ast.Attribute) and not (isinstance(target.value, ast.Name) and target.value.id == "self")
    }


def test_every_module_that_knows_the_library_is_in_its_package() -> None:
    assert all(PACKAGE / "backends" / "kafka" in path.parents for path in using_kafka())
    assert len(using_kafka()) > 8


def test_one_module_uses_private_names_of_the_library_and_no_more_than_before() -> None:
    found = {path: names for path, tree in using_kafka().items() if (names := private_names(tree))}
    assert set(found) == {INTERNALS}, found
    assert len(found[INTERNALS]) <= MOST, sorted(found[INTERNALS])


def test_one_module_replaces_parts_of_the_library() -> None:
    ours = {"ask_at", "tell_at"}
    found = {path: names for path, tree in using_kafka().items() if (names := replaced_names(tree) - ours)}
    assert set(found) == {INTERNALS}, found


def test_no_class_overrides_a_private_part_of_the_library() -> None:
    modules = [import_module(each.name) for each in walk_packages(kafka_package.__path__, "workers.backends.kafka.")]
    ours = {each for module in modules for each in vars(module).values() if isinstance(each, type)}
    for each in ours:
        bases = [base for base in each.__mro__ if base.__module__.partition(".")[0] == "kafka"]
        if bases and each.__module__.startswith("workers."):
            own = {*vars(each), *re.findall(r"self\.(_[a-z]\w*)", inspect.getsource(each))}
            theirs = "".join(map(inspect.getsource, bases))
            assert not [name for name in own if PRIVATE.match(name) and re.search(rf"(self\.|def ){name}\b", theirs)]


FUNCTIONS = [
    each for _, each in inspect.getmembers(internals, inspect.isfunction) if inspect.getmodule(each) is internals
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda each: each.__name__)
def test_each_use_names_an_existing_test_and_a_wish_for_upstream(function: object) -> None:
    said = inspect.getdoc(function) or ""
    assert re.search(r"\nUpstream: \S|\nUpstream:\n    \S", said)
    named = re.findall(r"^(?:    |Test: )(\S+\.py)::(test_\w+)$", said, re.MULTILINE)
    assert named
    for path, name in named:
        assert re.search(rf"^def {name}\(", (TESTS / path).read_text(), re.MULTILINE), f"{path}::{name}"


def test_the_listed_private_parts_exist_in_the_installed_version() -> None:
    assert f"kafka-python {kafka.__version__} " in (internals.__doc__ or "")
