"""Where a command that was interrupted goes on."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from workers.errors import Misconfigured


class ResumePoint:
    """How far a command came, in a file of TAGSTREAM_STATE_DIR.

    The file is named after the command and its arguments.
    """

    def __init__(self, folder: Path, command: Iterable[str]) -> None:
        name = hashlib.sha256(json.dumps(list(command)).encode()).hexdigest()[:16]
        self._path = folder / "emit" / f"{name}.json"

    def last(self) -> str:
        """The last key whose event is acknowledged; empty: begin at the beginning."""
        from pydantic_core import from_json

        try:
            return str(from_json(self._path.read_bytes())["last"])
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise self._unusable("read", error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise Misconfigured(f"{self._path} can't be read ({error}); --again begins anew") from error

    def note(self, key: str) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._path.with_suffix(".new")
            scratch.write_text(json.dumps({"last": key}), encoding="utf-8")
            scratch.replace(self._path)
        except OSError as error:
            raise self._unusable("written", error) from error

    def forget(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable("removed", error) from error

    def require_writable(self) -> None:
        """Find out before anything is sent.

        Raises:
            Misconfigured: the place could not be noted.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._path.parent):
                pass
        except OSError as error:
            raise self._unusable("written", error) from error

    def _unusable(self, how: str, error: OSError) -> Misconfigured:
        return Misconfigured(
            f"TAGSTREAM_STATE_DIR: {self._path} can't be {how}: {error.strerror}. "
            "Name a folder that this user may write."
        )
