"""What a person corrects is shown at once, and what is to be forgotten goes, on real servers with a real worker."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.enriched_image import EnrichedImage
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo, worker
from workers.backends.kafka import ensure_topics

pytestmark = pytest.mark.servers


class Place:
    """A site with a corrections topic, one worker that reads it, and commands with its settings."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder = site, folder
        self.said = f"{site.name}.corrections"
        ensure_topics(site.stack.kafka.servers, {self.said: (1, {})})
        self.more = {"TAGSTREAM_CORRECTIONS_TOPIC": self.said}

    def tagstream(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "workers", *arguments],
            env={
                "PATH": "",
                "HOME": str(Path.home()),
                "TAGSTREAM_STATE_DIR": str(self.folder),
                **self.site.settings("command"),
                **self.more,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def images(self, key: str) -> list[EnrichedImage]:
        found = [each for each in self.site.outputs() if isinstance(each, EnrichedImage)]
        return [each for each in found if each.source.key == key]


@pytest.fixture
def place(site: Site, tmp_path: Path) -> Place:
    return Place(site, tmp_path / "state")


@pytest.fixture
def live(place: Place, tmp_path: Path) -> Iterator[WorkerProcess]:
    with worker(place.site, "w", tmp_path, **place.more) as process:
        yield process


def test_a_correction_that_is_applied_is_shown_without_a_run_of_the_model(place: Place, live: WorkerProcess) -> None:
    place.site.upload("a.jpg", photo(81))
    place.site.send([(place.site.own("a.jpg"), ())])
    eventually(lambda: len(place.images("a.jpg")) == 1, 90, live.said)
    ran = place.tagstream("correct", f"{place.site.name}/a.jpg", "--add", "a kite", "--apply")
    assert ran.returncode == 0, ran.stderr
    before, *_, shown = sorted(place.images("a.jpg"), key=lambda each: each.version or 0)
    assert shown.corrections is not None
    assert shown.corrections.added == ("a kite",)
    assert shown.cache.tags == "hit"
    assert f"version {shown.version} shows it" in ran.stdout
    assert (before.version or 0) < (shown.version or 0)
