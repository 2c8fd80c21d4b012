"""Prometheus' rules with every time divided, so that an alert for half an hour fires after a minute or less.

What an increase is compared with is divided as well, because in a shorter time there is less of it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_WINDOW = re.compile(r"\[(\d+)([smhd])(?::(\d+)([smhd]))?\]")
_OFFSET = re.compile(r"(\boffset )(\d+)([smhd])\b")
_INCREASE = re.compile(r"((?:\bincrease\([^()]*\)|:increase\d+[smhd])\)?\s*>\s*)(\d+)")
"""An increase, or the sum of some, and the number that it is compared with."""
_SECONDS = re.compile(r"(_seconds(?:\{[^}]*\})?\)?\s*>\s*)(\d+)")
"""A number of seconds that a metric is compared with."""


def shortened(rules: Path, by: int, into: Path) -> Path:
    """Write the rules of a file with windows, offsets, `for`, compared seconds and compared increases divided.

    No time is divided to less than a second.
    """
    document: Any = yaml.safe_load(rules.read_text(encoding="utf-8"))
    for group in document["groups"]:
        group.pop("interval", None)  # as often as all others
        for rule in group["rules"]:
            rule["expr"] = shortened_expression(rule["expr"], by)
            if "for" in rule:
                rule["for"] = _divided(*_parts(rule["for"]), by)
    into.write_text(yaml.safe_dump(document), encoding="utf-8")
    return into


def shortened_expression(expression: str, by: int) -> str:
    def window(found: re.Match[str]) -> str:
        step = f":{_divided(found[3], found[4], by)}" if found[3] else ""
        return f"[{_divided(found[1], found[2], by, least=5)}{step}]"

    def offset(found: re.Match[str]) -> str:
        return f"{found[1]}{_divided(found[2], found[3], by)}"

    def number(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) / by:g}"

    for pattern, shorter in ((_INCREASE, number), (_SECONDS, number), (_OFFSET, offset), (_WINDOW, window)):
        expression = pattern.sub(shorter, expression)
    return expression


def _parts(duration: str) -> tuple[str, str]:
    return duration[:-1], duration[-1]


def _divided(number: str, unit: str, by: int, least: int = 1) -> str:
    """At least so long: a window needs two samples, which are up to two seconds apart."""
    return f"{max(least, int(number) * _UNITS_S[unit] // by)}s"
