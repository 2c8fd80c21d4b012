"""Commands of other packages: found by their entry points, and a sentence where the package is not installed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.cli.conftest import Ran
from workers.cli import app
from workers.cli.exit_codes import MISCONFIGURED


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "entry_points", lambda **_: ())
    monkeypatch.setattr(app, "command_tree", app.command_tree.__wrapped__)


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("command", [("demo", "--keep"), ("stack", "up"), ("train", "fit", "a", "-o", "b"), ("train",)])
def test_a_command_whose_package_is_absent_says_how_to_get_it(
    command: tuple[str, ...], tagstream: Callable[..., Ran]
) -> None:
    ran = tagstream(*command)
    assert ran.code == MISCONFIGURED
    assert app.ELSEWHERE[command[0]] in ran.err
    assert "make install" in " ".join(ran.err.split())


@pytest.mark.usefixtures("nothing_installed")
def test_the_help_of_an_absent_command_names_its_package(tagstream: Callable[..., Ran]) -> None:
    ran = tagstream("train", "--help")
    assert ran.code == 0
    assert "tagstream-train" in ran.out
