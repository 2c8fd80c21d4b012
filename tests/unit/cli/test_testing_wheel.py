from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.unit.cli.conftest import Ran
from workers.cli.exit_codes import MISCONFIGURED
from workers.cli.testing_wheel import needs_testing_wheel
from workers.errors import not_installed


@pytest.mark.parametrize(("command", "module"), [(("demo",), "demo"), (("stack", "up"), "stack_up")])
def test_a_command_without_its_wheel_says_what_to_install(
    command: tuple[str, ...], module: str, tagstream: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"tagstream_testing.local.{module}", None)
    ran = tagstream(*command)
    assert ran.code == MISCONFIGURED
    said = " ".join(ran.err.split())
    assert said.startswith(f"`tagstream {' '.join(command)}`")
    assert said.endswith(str(not_installed("tagstream-testing")))


def test_any_other_missing_module_is_a_bug() -> None:
    with pytest.raises(ModuleNotFoundError), needs_testing_wheel("demo"):
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")
