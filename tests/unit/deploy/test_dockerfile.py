"""The Dockerfile, compared with the repository; its commands run here with this environment's own programs."""

import fnmatch
import re

import pytest

from tests.unit.deploy.dockerfile import Dockerfile, Instruction
from tests.unit.deploy.tools import ROOT

TARGETS = ["cpu", "cuda"]


@pytest.fixture(scope="module")
def dockerfile() -> Dockerfile:
    return Dockerfile(ROOT / "Dockerfile")


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def copies(dockerfile: Dockerfile) -> list[Instruction]:
    everything = [each for stage in dockerfile.stages.values() for each in stage.instructions]
    return [each for each in everything if each.keyword == "COPY"]


def from_the_repository(dockerfile: Dockerfile) -> set[str]:
    patterns = {source for copy in copies(dockerfile) if "from" not in copy.flags for source in copy.words[:-1]}
    found = {pattern: {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)} for pattern in patterns}
    return {path for pattern, paths in found.items() for path in paths or {pattern}}


def reaches_the_build(path: str) -> bool:
    """What .dockerignore says of a path; the last line that fits decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and fnmatch.fnmatch(path, pattern.removeprefix("**/")):
            ignored = not line.startswith("!")
    return not ignored


def test_copied_files_exist_and_only_they_reach_the_build(dockerfile: Dockerfile) -> None:
    sources = from_the_repository(dockerfile)
    assert [source for source in sources if not (ROOT / source).exists() or not reaches_the_build(source)] == []
    reached = {path.name for path in ROOT.iterdir() if reaches_the_build(path.name)}
    assert reached <= {path.split("/")[0] for path in sources}
    scripts = [path.name for path in (ROOT / "scripts").iterdir() if reaches_the_build(f"scripts/{path.name}")]
    assert scripts == ["install-torch"]
    assert not reaches_the_build("__pycache__")


def test_the_targets_differ_in_their_build_of_torch(dockerfile: Dockerfile) -> None:
    for target in TARGETS:
        parts = [each.flags["from"] for each in dockerfile.stages[target].instructions if each.keyword == "COPY"]
        assert parts == [f"packages-{target}", "bundles"]
    runs = {name: dockerfile.stages[f"packages-{name}"].instructions for name in TARGETS}
    builds = {name: [each.value for each in runs[name] if each.keyword == "ARG"] for name in TARGETS}
    assert builds == {"cpu": ["CPU_BACKEND=cpu"], "cuda": ["CUDA_BACKEND="]}  # empty: the package index's build


def test_packages_come_from_the_locks_with_their_hashes(dockerfile: Dockerfile, target: str) -> None:
    runs = [each.value for each in dockerfile.whole(f"packages-{target}") if each.keyword == "RUN"]
    for lock in ("requirements-uv.lock", "requirements.lock"):
        (install,) = [run for run in runs if lock in run]
        assert "--require-hashes" in install


def test_the_bundle_that_compose_names_is_made_in_the_image_of_a_wheel_with_a_hash(dockerfile: Dockerfile) -> None:
    download, make = [each for each in dockerfile.stages["bundles"].instructions if each.keyword == "RUN"]
    assert {"--require-hashes", "requirements-ocr.lock"} <= set(download.words)
    named = re.search(r"TAGSTREAM_ROLES: ocr=/opt/tagstream(\S+)", (ROOT / "docker-compose.yml").read_text())
    assert named is not None
    assert make.words[-2:] == ["--out", named[1]]
