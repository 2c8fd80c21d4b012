"""What of an event's options changes a result: one rule for each field, from which every key of a result is made.

The rules of all roles together say which images in flight are equal; those of one role are part of its name in the
cache. An event's id takes every field as it is (`enriched_id`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from schemas.options import Options
from workers.pipeline.annotation import Annotation

_FIELDS = tuple(Options.model_fields)

OptionRule: TypeAlias = Callable[[Annotation, Mapping[str, Any]], str | None]
"""What of one field's value changes a role's result, given the results of other roles that are known by name; None:
nothing."""

OptionRules: TypeAlias = Mapping[str, OptionRule]
"""By field of `Options`. A field without a rule is a KeyError: what it changes is not known yet."""


def changes_nothing(image: Annotation, known: Mapping[str, Any]) -> None:
    """The rule of a field on which the result does not depend."""


def option_parts(rules: OptionRules, image: Annotation, known: Mapping[str, Any]) -> tuple[str, ...]:
    """What the event's options change in a result, field by field: equal for two events that want the same of it.

    Args:
        known: results of other roles, by name.
    """
    found = [(name, rules[name](image, known)) for name in _FIELDS]
    return tuple([f"{name}={value}" for name, value in found if value is not None])
