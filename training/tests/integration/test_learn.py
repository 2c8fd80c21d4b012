"""The whole loop on a drawn set, at its smallest (`make learn-fast`)."""

import json
from pathlib import Path

import pytest

from examples.learn.__main__ import main
from examples.learn.loop import FILE, Learned
from workers.models.bundle import Bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # ten seconds of one processor, which may be busy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learn") / "learned"
    assert main(["--fast", "-o", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def learned(folder: Path) -> Learned:
    found = Learned.read(folder)
    assert found is not None
    return found


def test_the_last_model_is_better_than_the_first(learned: Learned) -> None:
    assert [each.name for each in learned.rounds] == ["parsed", "generated", "cleaned", "fine-tuned"]
    first, *_, last = learned.rounds
    assert last.test + last.unseen > first.test + first.unseen
    for each in learned.rounds:
        Bundle.open(Path(each.bundle)).verify()


def test_a_stopped_run_continues_at_its_place(
    folder: Path, learned: Learned, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / FILE).unlink()
    weights = [path.stat().st_mtime_ns for path in sorted(folder.glob("bundles/*/model.json"))]
    assert main(["--fast", "--json", "-o", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out) == learned.model_dump(mode="json")
    assert weights == [path.stat().st_mtime_ns for path in sorted(folder.glob("bundles/*/model.json"))]
