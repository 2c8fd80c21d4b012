"""The command line, run in this process."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from tests.support.kept import kept_compact
from tests.unit.models.small import small_bundle
from workers.cli.app import run_command
from workers.models.bundle import Bundle


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Tagstream = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the settings that a test makes, and no state outside of its folder."""
    for name in list(os.environ):
        if name.startswith(("TAGSTREAM_", "OTEL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TAGSTREAM_STATE_DIR", str(tmp_path / "state"))


Told = Callable[[], tuple[str, str]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Standard output and standard error since the last time it was asked."""

    def read() -> tuple[str, str]:
        captured = capsys.readouterr()
        return captured.out, captured.err

    return read


@pytest.fixture
def tagstream(capfd: pytest.CaptureFixture[str]) -> Tagstream:
    """`tagstream("tail", "--json")`"""

    def call(*arguments: object) -> Ran:
        capfd.readouterr()
        with mock.patch.dict(os.environ):  # a process of its own would take its variables with it
            code = run_command([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return call


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's cache folder with the compact bundle."""
    folder = tmp_path_factory.mktemp("cache")
    kept_compact(folder / "tagstream")
    return folder


@pytest.fixture
def ram(tmp_path: Path) -> Bundle:
    return small_bundle("ram", tmp_path / "bundles" / "ram")


@pytest.fixture
def tag2text(tmp_path: Path) -> Bundle:
    return small_bundle("tag2text", tmp_path / "bundles" / "tag2text")
