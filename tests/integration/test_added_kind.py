"""An added kind of result on real servers: examples/role, installed as its page says."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from tests.fixtures import Stack
from tests.support.captioned import newest
from tests.support.images import encoded
from tests.support.waiting import eventually
from tests.support.worker_process import Site, photo, worker

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
SHARP = photo(515_000, 200)


def blurred(image: bytes) -> bytes:
    return encoded(Image.open(io.BytesIO(image)).filter(ImageFilter.GaussianBlur(8)), "png")


def _path(packages: Path | None) -> str:
    """This process's PYTHONPATH, with these packages first."""
    return os.pathsep.join([*map(str, filter(None, [packages])), os.environ.get("PYTHONPATH", "")])


@dataclass(frozen=True)
class Line:
    """A site whose worker has run, and the folder with the package and its bundles."""

    site: Site
    packages: Path

    @property
    def roles(self) -> str:
        return f"sharpness={self.packages / 'bundle'}"

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TAGSTREAM_", "OTEL_"))}
        own = {
            "PYTHONPATH": _path(self.packages),
            "TAGSTREAM_ROLES": self.roles,
            "TAGSTREAM_STATE_DIR": str(self.packages / "state"),
            "TAGSTREAM_INDEX_SCHEMA": self.site.name.replace("-", "_"),
            "TAGSTREAM_INDEX_HTTP_PORT": "0",
        }
        return kept | self.site.settings("command") | own | more

    def command(self, *words: object, **more: str) -> str:
        command = [sys.executable, "-m", "workers", *map(str, words)]
        environment = self.environment(**more)
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's lines: install the package, make its bundle."""
    folder = tmp_path_factory.mktemp("packages")
    install = ["uv", "pip", "install", "-q", "--offline", "--no-deps", "--no-build-isolation", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", *install, "examples/role"], cwd=ROOT, check=True)
    make = [sys.executable, "-m", "sharpness.model", str(folder / "bundle")]
    subprocess.run(make, cwd=ROOT, check=True, env=os.environ | {"PYTHONPATH": _path(folder)})
    return folder


@pytest.fixture(scope="module")
def line(stack: Stack, packages: Path) -> Iterator[Line]:
    """A worker with the role has answered six events."""
    site = Site(stack, f"kinds-{os.getpid()}")
    made = Line(site, packages)
    images = {"sharp": SHARP, "blurred": blurred(SHARP), "logos": photo(515_001), "plain": photo(515_002)}
    wants = {"sharp": ["tags", "sharpness"], "blurred": ["sharpness"], "logos": ["tags", "logos"], "plain": ["tags"]}
    for name, image in images.items():
        site.upload(name, image)
    own = {"PYTHONPATH": _path(packages), "TAGSTREAM_ROLES": made.roles}
    with worker(site, "w", packages, **own) as process:
        site.send([(site.own(name, options={"want": want}), ()) for name, want in wants.items()])
        eventually(lambda: site.behind() == 0, 90, process.said)
        site.upload("copy", SHARP)
        site.send([(site.own("copy", options={"want": ["sharpness"]}), ())])
        process.finish()
    yield made
    site.store.close()


def test_outcomes_have_the_result_with_its_model_and_the_cache_gives_it_back(line: Line) -> None:
    found = newest(line.site)
    results = {key: each.results or {} for key, each in found.items()}
    values = {key: (each["sharpness"].value["text"], each["sharpness"].cache) for key, each in results.items() if each}
    assert values == {"sharp": ("sharp", "miss"), "blurred": ("blurred", "miss"), "copy": ("sharp", "hit")}
    assert results["copy"]["sharpness"].value == results["sharp"]["sharpness"].value
    model = json.loads((line.packages / "bundle" / "model.json").read_bytes())
    assert {each["sharpness"].model.digest for each in results.values() if each} == {model["digest"]}
    wanted = {key: each.options and (each.options.want, each.options.results) for key, each in found.items()}
    assert (wanted["plain"], wanted["sharp"]) == ((("tags",), None), (("tags",), ("sharpness",)))
    assert found["plain"].results is None
    assert {key: each.status for key, each in found.items() if each.status != "complete"} == {"logos": "partial"}


def test_a_wish_for_a_kind_that_the_worker_lacks_is_a_dead_letter_beside_the_tags(line: Line) -> None:
    (letter,) = line.site.letters()
    (failure,) = letter.failures
    assert (failure.stage, failure.reason, failure.want) == ("annotate", "role-not-here", "logos")
    assert newest(line.site)["logos"].models.tagger is not None
    assert line.site.audit().proved


def test_a_dead_letter_is_answered_when_it_is_replayed_to_a_worker_that_has_the_kind(
    stack: Stack, packages: Path, tmp_path: Path
) -> None:
    site = Site(stack, f"later-{os.getpid()}")
    line = Line(site, packages)
    site.upload("late", photo(515_003, 200))
    site.send([(site.own("late", options={"want": ["tags", "sharpness"]}), ())])
    with worker(site, "without", tmp_path) as process:
        eventually(lambda: len(site.letters()) == 1 and site.behind() == 0, 90, process.said)
    assert (newest(line.site)["late"].status, newest(line.site)["late"].results) == ("partial", None)
    line.command("dead-letters", "replay", "--reason", "role-not-here", "--want", "sharpness", "--go")
    own = {"PYTHONPATH": _path(packages), "TAGSTREAM_ROLES": line.roles}
    with worker(site, "with", tmp_path, **own) as process:
        eventually(lambda: newest(line.site)["late"].status == "complete", 90, process.said)
        assert process.terminate() == 0, process.said()
    assert list(newest(line.site)["late"].results or ()) == ["sharpness"]
    assert site.audit().proved
    site.store.close()
