"""The programs that install, pin and build."""

import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts import release
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
    written += "    image: valkey/valkey:9.1.2-alpine{}\n    image: tagstream:1.0-cpu\n"
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


def built(kind: str, project: Path, out: Path) -> Path:
    build = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    subprocess.run(build, cwd=project, check=True, capture_output=True, timeout=200)
    (made,) = out.iterdir()
    return made


PACKAGES = {
    ".": {"workers", "schemas"},
    "index": {"tagstream_index"},
    "ocr": {"tagstream_ocr"},
    "remote": {"tagstream_remote"},
    "schemas": {"tagstream_schemas"},
    "testing": {"tagstream_testing"},
    "training": {"tagstream_train"},
}


def test_every_home_has_its_packages_tested() -> None:
    assert {f"{path.relative_to(CHECKOUT)}" for path in release.PROJECTS} == PACKAGES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("project", PACKAGES)
def test_a_wheel_made_from_the_source_distribution_is_whole(project: str, tmp_path: Path) -> None:
    folder, packages = CHECKOUT / project, PACKAGES[project]
    sdist = built("sdist", folder, tmp_path / "sdist")
    shutil.unpack_archive(sdist, tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    wheel = zipfile.ZipFile(built("wheel", unpacked, tmp_path / "wheel"))
    about = {name.partition(".dist-info/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
    content = set(wheel.namelist()) - set(about.values())
    assert "licenses/LICENSE" in about
    assert {name.partition("/")[0] for name in content} == packages
    if project == "schemas":
        modules = {f"tagstream_schemas/{path.relative_to(folder)}" for path in folder.rglob("*.py")}
    else:
        sources = [path for package in packages for path in (folder / package).rglob("*.py")]
        modules = {str(path.relative_to(folder)) for path in sources}
    assert modules <= content
    assert {f"{package}/py.typed" for package in packages} <= content
    metadata = wheel.read(about["METADATA"]).decode().splitlines()
    assert f"Version: {__version__}" in metadata
    if project in {"index", "ocr", "remote", "testing", "training"}:
        assert f"Requires-Dist: tagstream=={__version__}" in metadata
    if project in {"index", "testing", "training"}:
        assert "[tagstream.commands]" in wheel.read(about["entry_points.txt"]).decode()
    elif project == ".":
        assert {"workers/page/page.css", "workers/page/page.js"} <= content


def fake_wheel(folder: Path, name: str, *needs: str, schemas: bytes = b"") -> None:
    package = "schemas" if name == "tagstream" else name
    with zipfile.ZipFile(folder / f"{name}-1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.dist-info/METADATA", "\n".join(f"Requires-Dist: {each}" for each in needs))
        wheel.writestr(f"{package}/__init__.py", schemas)


@pytest.mark.parametrize("needs", ["tagstream", "tagstream>=1.2", "tagstream==1.20", "tagstream-schemas; extra == 'x'"])
def test_a_release_whose_wheels_need_other_versions_is_refused(
    needs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "DIST", tmp_path)
    fake_wheel(tmp_path, "tagstream", "tagstream-schemas==1.2 ; extra == 'schemas'", "pydantic>=2")
    fake_wheel(tmp_path, "tagstream_schemas")
    fake_wheel(tmp_path, "tagstream_index", "tagstream==1.2")
    release.require_one_version("1.2")
    fake_wheel(tmp_path, "tagstream_index", needs)
    with pytest.raises(release.NotProven, match="tagstream_index"):
        release.require_one_version("1.2")


def test_a_release_with_two_forms_of_the_schemas_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "DIST", tmp_path)
    fake_wheel(tmp_path, "tagstream")
    fake_wheel(tmp_path, "tagstream_schemas", schemas=b"a change")
    with pytest.raises(release.NotProven, match="__init__"):
        release.require_one_version("1.2")


def test_a_chart_is_packed_in_a_folder_of_its_name_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chart = tmp_path / "deploy" / "helm" / "tagstream"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("name: tagstream\nversion: 1.2\n")
    (chart / "templates" / "worker.yaml").write_text("kind: Deployment\n")
    monkeypatch.setattr(release, "CHECKOUT", tmp_path)
    monkeypatch.setattr(release, "DIST", tmp_path)
    monkeypatch.setattr(release, "stamp", lambda: 1_767_225_600)
    packed = []
    for _ in range(2):
        release.pack_charts("1.2")
        packed.append((tmp_path / "tagstream-1.2.tgz").read_bytes())
        (chart / "Chart.yaml").touch()
    assert packed[0] == packed[1]
    with tarfile.open(tmp_path / "tagstream-1.2.tgz") as archive:
        assert archive.getnames() == ["tagstream/Chart.yaml", "tagstream/templates/worker.yaml"]
