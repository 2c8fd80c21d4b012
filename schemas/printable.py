"""Text made fit for people. Imports nothing heavy: every command needs it."""

from __future__ import annotations

import json


def printable(text: str) -> str:
    """Foreign text, made fit for one line of terminal, log or header.

    Control characters (an escape sequence begins with one), characters that turn the direction of writing, and others
    that are invisible become U+FFFD. Markup is not its business.
    """
    return text if text.isprintable() else "".join(each if each.isprintable() else "\ufffd" for each in text)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Such as `1 event` and `2,000 events`; `plural` where the noun does not take an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def escaped(line: str) -> str:
    """A line of JSON without terminal control characters: they are escaped, and read back unchanged.

    They can only be inside of a string, where an escape of its UTF-16 units means the same to every reader.
    """
    if line.isprintable():
        return line
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in line)
