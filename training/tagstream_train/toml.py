"""TOML files for people and programs, checked by a model."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from schemas.text import first_fault
from workers.errors import Misconfigured

_MAX_BYTES = 16 * 1024
"""A name of n parts takes tomllib time and memory in proportion to n²: 0.2 GB for one of that size."""

Values = TypeVar("Values", bound=BaseModel)


def read_toml(kind: type[Values], path: Path) -> Values:
    """
    Raises:
        Misconfigured: the file can't be read, or a value is wrong.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise Misconfigured(f"{path} has more than {_MAX_BYTES:,} bytes.")
        return kind.model_validate(tomllib.loads(content.decode()))
    except OSError as error:
        raise Misconfigured(f"{path} can't be read: {error.strerror}.") from None
    except ValidationError as error:
        raise Misconfigured(f"{path}: {first_fault(error)}.") from None
    except (ValueError, RecursionError) as error:
        raise Misconfigured(f"{path} is not TOML: {error}.") from None


def toml_of(values: BaseModel) -> str:
    """All values as TOML, defaults too, without None."""
    return "\n".join(_table(values.model_dump(mode="json", exclude_none=True), ())).lstrip("\n") + "\n"


def _table(values: Mapping[str, Any], name: tuple[str, ...]) -> Iterator[str]:
    """Yield a table's values, then its nested tables."""
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lists = {key: value for key, value in values.items() if isinstance(value, list) and any(_tables(value))}
    yield from (f"{key} = {json.dumps(value)}" for key, value in values.items() if key not in tables | lists)
    for key, table in tables.items():
        yield f"\n[{'.'.join((*name, key))}]"
        yield from _table(table, (*name, key))
    for key, entries in lists.items():
        for entry in entries:
            yield f"\n[[{'.'.join((*name, key))}]]"
            yield from _table(entry, (*name, key))


def _tables(values: list[Any]) -> Iterator[bool]:
    return (isinstance(value, dict) for value in values)
