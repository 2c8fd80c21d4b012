"""The Dockerfile, compared with the repository; its commands run here with this environment's own programs."""

import fnmatch
import re

import pytest

from tests.unit.deploy.dockerfile import Dockerfile, Instruction
from tests.unit.deploy.tools import ROOT, documented, version
from workers.environment import read

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


def test_a_build_without_a_target_makes_the_small_image_for_its_own_platform(dockerfile: Dockerfile) -> None:
    assert list(dockerfile.stages)[-1] == "cpu"
    assert {stage.base for stage in dockerfile.stages.values()} - dockerfile.stages.keys() == {"${PYTHON_IMAGE}"}
    assert re.fullmatch(r"python:3\.13\.\d+-slim-trixie(@sha256:[0-9a-f]{64})?", dockerfile.arguments["PYTHON_IMAGE"])
    for path in ("Dockerfile", "scripts/install-torch"):
        code = [line for line in (ROOT / path).read_text().splitlines() if not line.lstrip().startswith("#")]
        assert re.findall(r"(?i)--platform|amd64|x86[_-]64|arm64|aarch64|linux-gnu", "\n".join(code)) == []
    built = re.findall(r"docker build +--target (\w+) +-t \S+:(\S+)", documented())
    assert built == [(target, f"{version()}-{target}") for target in TARGETS]


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


def test_its_state_and_caches_lie_in_one_folder_and_its_label_has_the_version(
    dockerfile: Dockerfile, target: str
) -> None:
    """User, signals, rights and the health check are tried on a built image (tests/image)."""
    environment = dockerfile.environment(target)
    state = environment["TAGSTREAM_STATE_DIR"]
    assert environment["HOME"] == dockerfile.last(target, "WORKDIR").value == state
    assert environment["XDG_CACHE_HOME"].startswith(f"{state}/")
    read(environment)
    labels = dict(word.split("=", 1) for word in dockerfile.last(target, "LABEL").words)
    assert labels["org.opencontainers.image.version"] == version()


def test_the_gpu_is_asked_of_the_container_runtime(dockerfile: Dockerfile) -> None:
    environment = dockerfile.environment("cuda")
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
