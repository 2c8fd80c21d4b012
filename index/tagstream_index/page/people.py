"""People whom a proxy's header names, and which of them may correct."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from starlette.requests import Request

from workers.backends.renewal import RenewedFile, why
from workers.errors import Misconfigured

NAME_MAX: Final = 256
"""Characters of a name, as a correction takes them."""


class Person(NamedTuple):
    """Who asks; `name` is empty if no header names them."""

    name: str
    editor: bool


class People:
    """The people behind a proxy. Thread-safe.

    Args:
        header: name of the header in which the proxy names them.
        editors: file of those who may correct, a name a line, read again when it changes; None: no person may.

    Raises:
        Misconfigured: no header has this name, or the file can't be read.
    """

    def __init__(self, header: str, editors: Path | None) -> None:
        if not re.fullmatch("[A-Za-z0-9-]{1,100}", header):
            raise Misconfigured(f"--user-header {header}: name a header, such as X-Forwarded-User")
        self._header = header.lower().encode()
        self._editors = None if editors is None else RenewedFile(editors, _names)
        try:
            self.may_correct("")
        except (OSError, ValueError) as error:
            raise Misconfigured(f"--editors {editors}: {why(error)}") from error

    def name(self, request: Request) -> str:
        """The name in the header; empty without one, with two, or if it hides characters."""
        found = [value for name, value in request.headers.raw if name == self._header]
        if len(found) != 1 or len(found[0]) > 4 * NAME_MAX:
            return ""
        try:
            name = found[0].decode().strip()
        except UnicodeDecodeError:
            return ""
        return name if len(name) <= NAME_MAX and name.isprintable() else ""

    def may_correct(self, name: str) -> bool:
        return self._editors is not None and name in self._editors()


def _names(text: str) -> frozenset[str]:
    lines = (line.strip() for line in text.removeprefix("\ufeff").splitlines())
    return frozenset(line for line in lines if line and not line.startswith("#"))


def people_of(header: str | None, editors: Path | None, *, behind_proxy: bool) -> People | None:
    """Raises Misconfigured: as `People`; or any client could send the header."""
    if header is not None and not behind_proxy:
        raise Misconfigured("--user-header: any client could send it; say --behind-proxy too, where a proxy sets it")
    if editors is not None and header is None:
        raise Misconfigured("--editors: say --user-header too, the header in which the proxy names people")
    return None if header is None else People(header, editors)
