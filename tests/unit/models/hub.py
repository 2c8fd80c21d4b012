"""A hub on a loopback port: files by repository, and faults of downloads."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Hub:
    """The served files and the manner; `asked` has the requests."""

    files: dict[str, bytes] = field(default_factory=dict)
    """By path: `owner/name/resolve/main/file`."""
    cut_after: list[int] = field(default_factory=list)
    """For each coming GET in turn: close the connection after this many bytes of the body."""
    announce: bool = True
    """Name the sha256 beforehand, as the hub does for large files."""
    etags: dict[str, str] = field(default_factory=dict)
    """By path, in place of the sha256."""
    status: int = 200
    ranges: bool = True
    elsewhere: bool = False
    """Send a client that asks for a file to another address for it, as the hub does for large files."""
    expires_after: int | None = None
    """The other address answers 403 after this many GETs, as a signed one does after an hour."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(method, range) of every request."""
    endpoint: str = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._head()

        def do_GET(self) -> None:
            start, body = self._head()
            stop = hub.cut_after.pop(0) if hub.cut_after else len(body)
            self.wfile.write(body[start : start + stop])
            self.close_connection = True

        def _head(self) -> tuple[int, bytes]:
            wanted = self.headers.get("Range", "")
            hub.asked.append((self.command, wanted))
            body = hub.files.get(self.path.lstrip("/").removeprefix("elsewhere/"))
            gets = [method for method, _ in hub.asked if method == "GET"]
            expired = hub.expires_after is not None and len(gets) > hub.expires_after
            if body is None or hub.status != 200 or expired:
                self.send_response(404 if body is None else 403 if expired else hub.status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return 0, b""
            if hub.elsewhere and not self.path.startswith("/elsewhere/"):
                self.send_response(302)
                self.send_header("Location", f"{hub.endpoint.replace('127.0.0.1', 'localhost')}/elsewhere{self.path}")
                self.send_header("X-Linked-Size", str(len(body)))
                self.send_header("X-Linked-ETag", f'"{hashlib.sha256(body).hexdigest()}"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return 0, b""
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and hub.ranges else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            sha256 = hashlib.sha256(body).hexdigest() if hub.announce else "plain"
            self.send_header("ETag", f'"{hub.etags.get(self.path.lstrip("/"), sha256)}"')
            self.send_header("X-Repo-Commit", "c" * 40)
            self.end_headers()
            return start, body

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
