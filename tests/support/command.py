"""A pytest plugin: `tagstream` commands, run in this process."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias
from unittest import mock

import pytest

from workers.cli.app import run_command
from workers.errors import MISCONFIGURED


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def done(self) -> str:
        """Its output, if it succeeded."""
        assert self.code == 0, self.err
        return self.out

    @property
    def json(self) -> Any:
        """The document that it printed, if it succeeded."""
        return json.loads(self.done)

    @property
    def notes(self) -> str:
        """Its standard error, if it succeeded."""
        assert self.code == 0, self.err
        return self.err

    def fails(self, code: int = MISCONFIGURED) -> str:
        """Its standard error, if it ended with this code."""
        assert self.code == code, (self.out, self.err)
        return self.err


Tagstream: TypeAlias = Callable[..., Ran]


@pytest.fixture
def tagstream(capfd: pytest.CaptureFixture[str]) -> Tagstream:
    """`tagstream("tail", "--json", GROUP="g")`: with settings of its own, if there are some."""

    def call(*arguments: object, **settings: object) -> Ran:
        capfd.readouterr()
        given = {f"TAGSTREAM_{name}": str(value) for name, value in settings.items()}
        with mock.patch.dict(os.environ, given):  # a process of its own would take its variables with it
            code = run_command([str(argument) for argument in arguments])
        return Ran(code, *capfd.readouterr())

    return call
