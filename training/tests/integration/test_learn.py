"""The whole loop on a drawn set, at its smallest (`make learn-fast`), and a worker that has its models."""

import json
from pathlib import Path

import pytest

from examples.learn.__main__ import main
from examples.learn.loop import FAST, FILE, Learned, learn
from examples.learn.scene import LABELS
from tests.fixtures import Stack, Unique
from tests.support.worker_process import Site, enriched_by_a_worker
from workers.errors import Misconfigured
from workers.models.bundle import Bundle

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # half a minute of one processor, which a busy machine may have to share
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the loop ran."""
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


def test_a_run_that_was_stopped_goes_on_where_it_was(
    folder: Path, learned: Learned, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / FILE).unlink()
    weights = [path.stat().st_mtime_ns for path in sorted(folder.glob("bundles/*/model.json"))]
    assert main(["--fast", "--json", "-o", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out) == learned.model_dump(mode="json")
    assert weights == [path.stat().st_mtime_ns for path in sorted(folder.glob("bundles/*/model.json"))]


def test_a_worker_tags_and_captions_by_what_was_learned(
    stack: Stack, unique: Unique, folder: Path, tmp_path: Path
) -> None:
    tagger, captioner = (Bundle.open(folder / "bundles" / name) for name in ("fine-tuned", "captions"))
    images = {f"{n}.png": (folder / "drawn" / "test" / "images" / f"{n:06}.png").read_bytes() for n in range(6)}
    models = {"TAGSTREAM_TAGGER": str(tagger.folder), "TAGSTREAM_CAPTIONER": str(captioner.folder)}
    outputs = enriched_by_a_worker(Site(stack, unique("learn")), tmp_path, images, TAGSTREAM_PRECISION="fp32", **models)
    assert len(outputs) == len(images)
    for output in outputs:
        assert output.models.tagger is not None
        assert output.models.captioner is not None
        assert (output.models.tagger.digest, output.models.captioner.digest) == (tagger.digest, captioner.digest)
        assert {tag.name for tag in output.tags} <= set(LABELS)
        assert output.caption is not None
        assert output.caption.guided_by is not None
        assert set(output.caption.guided_by) == {tag.name for tag in output.tags}
    assert any(output.tags for output in outputs)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(Misconfigured, match="exists already"):
        learn(tmp_path, FAST)
