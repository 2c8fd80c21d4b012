"""`make audit` against a database on loopback: it never says that all is well without an answer."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

AUDIT = Path(__file__).parents[2] / "scripts" / "audit.py"

Query = dict[str, Any]


@contextmanager
def database(answer: Callable[[list[Query]], object]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/querybatch"
            told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer(told["queries"])).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def audit(address: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, AUDIT], env={"OSV": address}, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_every_locked_package_is_asked_for_and_an_advisory_is_named() -> None:
    names: list[str] = []

    def answer(queries: list[Query]) -> object:
        names.extend(query["package"]["name"] for query in queries)
        return {"results": [{"vulns": [{"id": "GHSA-1"}]} if name == "pillow" else {} for name in names]}

    with database(answer) as address:
        code, said = audit(address)
    assert code == 1
    assert "pillow 1" in said
    assert "https://osv.dev/vulnerability/GHSA-1" in said
    assert {"torch", "nvidia-cublas", "uv", "hatchling", "kafka-python", "pytest"} <= set(names)


def test_without_an_advisory_all_is_well() -> None:
    with database(lambda queries: {"results": [{} for _ in queries]}) as address:
        code, said = audit(address)
    assert code == 0
    assert " packages, 0 advisories" in said


@pytest.mark.slow
@pytest.mark.parametrize("answer", [[], {}, {"results": []}, {"results": [{}]}, {"results": "all is well"}])
def test_an_invalid_answer_is_no_all_clear(answer: object) -> None:
    with database(lambda _: answer) as address:
        code, said = audit(address)
    assert code == 2
    assert said.startswith("Nothing was checked")


def test_no_answer_is_no_all_clear() -> None:
    code, said = audit("http://127.0.0.1:1")
    assert code == 2
    assert said.startswith("Nothing was checked")
    assert "Traceback" not in said
