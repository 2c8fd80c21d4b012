"""The programs that install, pin and build."""

import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workers import __version__

CHECKOUT = Path(__file__).parents[2]
DIGEST = "sha256:" + "5" * 64


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
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
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


def test_an_image_that_no_registry_knows_is_named_and_left_unchanged(registry: str, tmp_path: Path) -> None:
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
