"""Foreign text made fit for people. Imports nothing, because every command needs it."""

from __future__ import annotations


def printable(text: str) -> str:
    """Foreign text for one line of a terminal, a log or a header.

    Control characters (an escape sequence begins with one), characters that turn the direction of writing, and others
    that nobody sees become U+FFFD. Markup is not its business.
    """
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
