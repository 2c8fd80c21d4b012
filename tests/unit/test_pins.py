"""What is taken from outside to make an image or an environment: by hash or digest, or on a list with the reason."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
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
