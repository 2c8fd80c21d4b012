"""A pytest plugin: `tagstream` commands, run in this process."""

import os
from collections.abc import Callable
from typing import TypeAlias
from unittest import mock

import pytest

from tests.support.ran import Ran
from workers.cli.app import run_command

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
