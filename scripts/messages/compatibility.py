"""Tells whether a change of the published schemas breaks their users.

Consumers of an output wrote their code against the old schema, so everything valid under the new one must be valid
under the old one. Producers of an input did so too, so everything valid under the old one must be valid under the new
one. Both are one question, whether one schema lies inside another, in opposite directions. Readers ignore unknown
fields, so a new field breaks no reader; a removed one does in either direction. Readers accept an unknown `reason`, so
a new one breaks no reader.

It knows the keywords of the published schemas, and refuses others.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

Json: TypeAlias = dict[str, Any]

_NOTES: Final = frozenset({"$schema", "$id", "$defs", "title", "description", "default", "examples"})
_EXACT: Final = ("pattern", "format", "contentMediaType", "contentEncoding")
_BOUNDS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "minimum": operator.ge, "exclusiveMinimum": operator.gt, "minLength": operator.ge, "minItems": operator.ge,
    "maximum": operator.le, "exclusiveMaximum": operator.lt, "maxLength": operator.le, "maxItems": operator.le,
}  # fmt: skip
_KNOWN: Final = _NOTES | {*_EXACT, *_BOUNDS} | {
    "$ref", "anyOf", "type", "const", "enum", "properties", "required", "additionalProperties", "items",
    "contentSchema",
}  # fmt: skip


def breaking_changes(
    old: Mapping[str, bytes], new: Mapping[str, bytes], directions: Mapping[str, Literal["in", "out"]]
) -> list[str]:
    """What breaks between two sets of `publish.documents()`, a line each.

    Args:
        directions: which files are schemas, and whether producers write ("in") or consumers read ("out") them.
            Files that are not named here are not compared.
    """
    found: list[str] = []
    for name, content in old.items():
        direction = directions.get(name)
        if direction is None:
            continue
        if name not in new:
            found.append(f"{name}: no longer published")
            continue
        before, after = json.loads(content), json.loads(new[name])
        changes = breaks_producers(before, after) if direction == "in" else breaks_consumers(before, after)
        found += [f"{name}: {change}" for change in changes]
    return found


def breaks_consumers(old: Json, new: Json) -> list[str]:
    """Why readers of `old` may not understand messages under `new`."""
    return list(_outside(_Node(new, new), _Node(old, old), "$", "consumers"))


def breaks_producers(old: Json, new: Json) -> list[str]:
    """Why what producers send under `old` may break under `new`.

    It may be refused, or read differently.
    """
    return list(_outside(_Node(old, old), _Node(new, new), "$", "producers"))


class _Node(NamedTuple):
    """A schema and the document that its references point into."""

    schema: Any
    root: Json

    def at(self, schema: Any) -> _Node:
        return _Node(schema, self.root)

    def alternatives(self) -> list[_Node]:
        """The schemas without references and unions, one of them must match."""
        schema: Json = {} if self.schema is True else self.schema
        unknown = schema.keys() - _KNOWN
        if unknown:
            raise ValueError(f"can't compare schemas with {', '.join(sorted(unknown))}")
        if "$ref" in schema:
            return self.at(self.root["$defs"][schema["$ref"].removeprefix("#/$defs/")]).alternatives()
        if "anyOf" in schema:
            return [one for option in schema["anyOf"] for one in self.at(option).alternatives()]
        return [self.at(schema)]


_GROWING: Final = frozenset({"reason", "facts_missing"})
"""Fields with lists of values that may grow within a version of an output's schema."""

Whose: TypeAlias = Literal["consumers", "producers"]
"""The side that relies on the old schema: for consumers it is the outer one, for producers the inner."""


def _outside(inner: _Node, outer: _Node, path: str, whose: Whose) -> Iterator[str]:
    """Why some value of `inner` may lie outside `outer`."""
    outers = outer.alternatives()
    for one in inner.alternatives():
        complaints = [list(_differences(one, other, path, whose)) for other in outers]
        if all(complaints):
            # The alternative of the same type tells most; of another type it would only say so.
            alike = [c for c, other in zip(complaints, outers, strict=True) if _type(other) == _type(one)]
            yield from min(alike or complaints, key=len)


def _differences(inner: _Node, outer: _Node, path: str, whose: Whose) -> Iterator[str]:
    """The same for two schemas without unions."""
    yield from _type_differences(inner.schema, outer.schema, path)
    yield from _value_differences(inner.schema, outer.schema, path)
    yield from _bound_differences(inner.schema, outer.schema, path)
    yield from _text_differences(inner.schema, outer.schema, path)
    yield from _field_differences(inner, outer, path, whose)
    for keyword, step in (("items", "[]"), ("contentSchema", "(content)")):
        if keyword in outer.schema:
            yield from _outside(
                inner.at(inner.schema.get(keyword, True)), outer.at(outer.schema[keyword]), path + step, whose
            )
    if isinstance(outer.schema.get("additionalProperties"), dict):
        inner_values = inner.at(inner.schema.get("additionalProperties", True))
        yield from _outside(inner_values, outer.at(outer.schema["additionalProperties"]), f"{path}.*", whose)


def _type(node: _Node) -> str | None:
    kind: str | None = node.schema.get("type")
    return kind


def _type_differences(inner: Json, outer: Json, path: str) -> Iterator[str]:
    have, want = inner.get("type"), outer.get("type")
    if want is not None and have != want and (have, want) != ("integer", "number"):
        yield f"{path} may be {have or 'anything'}, not only {want}"


def _values(schema: Json) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def _value_differences(inner: Json, outer: Json, path: str) -> Iterator[str]:
    allowed = _values(outer)
    if allowed is None:
        return
    possible = _values(inner)
    if possible is None:
        yield f"{path} may be anything, not only {_listed(allowed)}"
    elif surplus := [value for value in possible if value not in allowed]:
        yield f"{path} may be {_listed(surplus)}, not only {_listed(allowed)}"


def _listed(values: list[Any]) -> str:
    return ", ".join(json.dumps(value) for value in values)


def _bound_differences(inner: Json, outer: Json, path: str) -> Iterator[str]:
    for keyword in _BOUNDS:
        if keyword in outer and not _within(inner, keyword, outer[keyword]):
            yield f"{path} may be outside {keyword} {outer[keyword]}"


def _within(inner: Json, keyword: str, bound: float) -> bool:
    values = _values(inner)
    if values is not None:
        return all(_BOUNDS[keyword](len(value) if isinstance(value, str) else value, bound) for value in values)
    if keyword not in inner:
        return False
    loosest: float = inner[keyword]
    return loosest == bound or _BOUNDS[keyword](loosest, bound)


def _text_differences(inner: Json, outer: Json, path: str) -> Iterator[str]:
    values = _values(inner)
    for keyword in _EXACT:
        if keyword not in outer or inner.get(keyword) == outer[keyword]:
            continue
        if keyword == "pattern" and values is not None and all(re.search(outer["pattern"], str(v)) for v in values):
            continue
        yield f"{path} need not have the {keyword} {outer[keyword]}"


def _field_differences(inner: _Node, outer: _Node, path: str, whose: Whose) -> Iterator[str]:
    have: Json = inner.schema.get("properties", {})
    want: Json = outer.schema.get("properties", {})
    missing = set(outer.schema.get("required", ())) - set(inner.schema.get("required", ()))
    for name in sorted(missing):
        yield f"{path}.{name} may be missing"
    for name in sorted(want.keys() & have.keys()):
        wanted = _any_value(want[name]) if whose == "consumers" and name in _GROWING else want[name]
        yield from _outside(inner.at(have[name]), outer.at(wanted), f"{path}.{name}", whose)
    if whose == "producers":
        yield from _default_differences(have, want, path)
    before, after = (want, have) if whose == "consumers" else (have, want)
    for name in sorted(before.keys() - after.keys() - missing):
        yield f"{path}.{name} is {'no longer sent' if whose == 'consumers' else 'ignored now'}"
    if outer.schema.get("additionalProperties") is False:
        for name in sorted(have.keys() - want.keys()):
            yield f"{path}.{name} is not allowed, as no field is that the schema does not name"


def _any_value(schema: Json) -> Json:
    """The same schema without its list of values."""
    opened = {keyword: value for keyword, value in schema.items() if keyword not in ("enum", "const")}
    if "anyOf" in opened:
        opened["anyOf"] = [_any_value(option) for option in opened["anyOf"]]
    return opened


def _default_differences(before: Json, after: Json, path: str) -> Iterator[str]:
    """Changed defaults: an absent field must keep its meaning."""
    for name in sorted(before.keys() & after.keys()):
        meant, means = (fields[name].get("default") for fields in (before, after))
        if meant != means:
            yield f"{path}.{name}, when absent, meant {json.dumps(meant)} and means {json.dumps(means)} now"
