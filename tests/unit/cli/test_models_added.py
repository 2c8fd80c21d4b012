"""`tagstream models` with what other packages add."""

import json
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType

import pytest

from sharpness import SharpnessKind
from sharpness.model import make_bundle
from tests.support.command import Tagstream
from tests.unit.models.tiny import tiny_bundle
from workers.errors import MISCONFIGURED
from workers.models import load, result_kinds, tune
from workers.models.bundle import Bundle
from workers.models.files import sha256_of
from workers.models.pull import Progress


@pytest.fixture
def _importers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if two installed packages had importers: one of no file, and one of files that begin with `tiny`."""
    module = ModuleType("importers_of_others")

    def of_none(file: Path, out: Path, *, progress: Progress, replace_existing: bool) -> Bundle | None:
        return None

    def of_tiny(file: Path, out: Path, *, progress: Progress, replace_existing: bool) -> Bundle | None:
        return tiny_bundle(out) if file.read_bytes().startswith(b"tiny") else None

    module.of_none, module.of_tiny = of_none, of_tiny  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    points = [EntryPoint(name, f"{module.__name__}:{name}", load.IMPORTERS) for name in ("of_tiny", "of_none")]
    found = {load.IMPORTERS: EntryPoints(points)}
    monkeypatch.setattr(load, "entry_points", lambda group, **_: found.get(group, EntryPoints()))


@pytest.mark.usefixtures("_importers")
def test_another_packages_file_becomes_a_bundle(tagstream: Tagstream, tmp_path: Path) -> None:
    file, out = tmp_path / "weights.whl", tmp_path / "bundle"
    file.write_bytes(b"tiny weights")
    shown = tagstream("models", "import", file, "-o", out, "--sha256", sha256_of(file)).done
    assert Bundle.open(out).digest[:12] in shown


@pytest.mark.usefixtures("_importers")
@pytest.mark.parametrize(
    ("content", "more"),
    [(b"something else", ()), (b"tiny weights", ("--sha256", "0" * 64)), (b"tiny weights", ("--licence", "MIT"))],
    ids=["known to no importer", "another sha256", "an option of ours"],
)
def test_other_files_are_refused(content: bytes, more: tuple[str, ...], tagstream: Tagstream, tmp_path: Path) -> None:
    file, out = tmp_path / "weights.whl", tmp_path / "bundle"
    file.write_bytes(content)
    assert tagstream("models", "import", file, "-o", out, *more).code == MISCONFIGURED
    assert not out.exists()


@pytest.mark.usefixtures("_importers")
def test_a_missing_file_is_named(tagstream: Tagstream, tmp_path: Path) -> None:
    ran = tagstream("models", "import", tmp_path / "nothing", "-o", tmp_path / "bundle")
    assert (ran.code, str(tmp_path / "nothing") in ran.err) == (MISCONFIGURED, True)


@pytest.fixture
def sharpness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(result_kinds, "kinds", lambda: {"sharpness": SharpnessKind()})
    monkeypatch.setenv("TAGSTREAM_DEVICE", "cpu")
    return make_bundle(tmp_path / "bundles" / "sharpness")


def test_a_roles_bundle_is_listed_and_verified(sharpness: Bundle, tagstream: Tagstream) -> None:
    found = [json.loads(line) for line in tagstream("models", "list", "--json", sharpness.folder).out.splitlines()]
    assert found[-1]["uses"] == ["sharpness"]
    shown = tagstream("models", "verify", sharpness.folder).done
    assert f"TAGSTREAM_ROLES=sharpness={sharpness.folder}@sha256:{sharpness.digest}" in shown


@pytest.mark.slow
def test_a_roles_model_is_tuned(sharpness: Bundle, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TIMED_S", "WARM_S"):
        monkeypatch.setattr(tune, name, 0.0)
    monkeypatch.setattr(tune, "LARGEST_BATCH", 2)
    trials = [json.loads(line) for line in tagstream("models", "tune", sharpness.folder, "--json").done.splitlines()]
    assert [trial["use"] for trial in trials if trial["chosen"]] == ["sharpness"]
