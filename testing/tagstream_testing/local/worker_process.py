"""The worker as a process, run as a user runs it.

By its command and its environment.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from schemas.enriched_image import USES
from tagstream_testing.local import tuned
from tagstream_testing.local.server import CannotStart, Server
from workers.environment import variable
from workers.settings import Settings

_MODELS = tuple(variable(name) for name in (*USES, "roles", "device", "precision", "profiles"))
"""A demonstration's settings from its caller: the models. The others are for other servers."""


class WorkerProcess(Server):
    """`tagstream run` with these settings; up when it is warmed up and about to join its group.

    Args:
        folder: its log and its state.
        settings: TAGSTREAM_* variables, and fields of `Settings` that have none. The port of /readyz is chosen here.
        arguments: for the command, after `run`.
    """

    name: ClassVar[str] = "worker"
    stops_within_s: ClassVar[float] = 30.0
    inherits: ClassVar[Collection[str]] = _MODELS
    """Settings that are taken from the caller's own environment."""

    def __init__(self, folder: Path, settings: Mapping[str, str], arguments: Sequence[str] = ()) -> None:
        super().__init__(folder)
        fixed = {name: value for name, value in settings.items() if name in Settings.model_fields}
        self._tuned = {name: value for name, value in fixed.items() if value}
        self._settings = {name: value for name, value in settings.items() if name not in fixed}
        if self._tuned:
            self._settings[tuned.VARIABLE] = json.dumps(self._tuned)
        self._arguments = list(arguments)
        self._where = Path.cwd()

    @property
    def url(self) -> str:
        """Where /livez, /startupz, /readyz and /metrics are."""
        return f"http://127.0.0.1:{self.ports[0]}"

    def prepare(self) -> None:
        (self.folder / "state").mkdir(exist_ok=True)

    def command(self) -> Sequence[str]:
        program = tuned.__name__ if self._tuned else "workers"
        return [sys.executable, "-m", program, "run", *self._arguments]

    def environment(self) -> Mapping[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("TAGSTREAM_") or name in self.inherits
        }
        own = {
            "TAGSTREAM_STATE_DIR": str(self.folder / "state"),
            "TAGSTREAM_HTTP_HOST": "127.0.0.1",
            "TAGSTREAM_HTTP_PORT": str(self.ports[0]),
        }
        return inherited | own | self._settings

    def working_folder(self) -> Path:
        """Ours, so that `-m workers` finds a checkout that is not installed."""
        return self._where

    def must_run(self) -> None:
        """Raises CannotStart, with its last words, when it has ended."""
        if not self.running:
            raise CannotStart(self.complaint(f"ended with exit code {self.exit_code}"))

    def must_have_ended_well(self) -> None:
        """Raise CannotStart, with its last words, unless it ended with 0."""
        if self.exit_code != 0:
            raise CannotStart(self.complaint(f"ended with exit code {self.exit_code} instead of 0"))

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False
