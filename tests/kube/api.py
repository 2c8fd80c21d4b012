"""The few questions that tests and the node ask of the API server."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import urllib3

from workers.errors import TagstreamError

TOKEN = "test-admin"


class ApiError(TagstreamError):
    """The API server refused; `status` is HTTP's."""

    def __init__(self, status: int, says: str) -> None:
        super().__init__(says)
        self.status = status


class Api:
    """JSON over HTTPS, as an administrator. Thread-safe.

    Raises:
        ApiError: by every method, for an answer that is not 2xx.
    """

    def __init__(self, url: str, authority: str) -> None:
        self._url = url
        headers = {"authorization": f"Bearer {TOKEN}"}
        self._pool = urllib3.PoolManager(
            headers=headers, ca_certs=authority, timeout=urllib3.Timeout(60), retries=False, maxsize=4
        )

    def get(self, path: str, **query: str) -> Any:
        return self._ask("GET", path, None, "application/json", query)

    def create(self, path: str, body: object) -> Any:
        return self._ask("POST", path, body, "application/json")

    def patch(self, path: str, body: object) -> Any:
        """A JSON merge patch (RFC 7386)."""
        return self._ask("PATCH", path, body, "application/merge-patch+json")

    def delete(self, path: str, body: object = None) -> Any:
        return self._ask("DELETE", path, body, "application/json")

    def text(self, path: str) -> str:
        return self._answer("GET", path, None, "application/json", {}).decode()

    def _ask(self, method: str, path: str, body: object, kind: str, query: dict[str, str] | None = None) -> Any:
        return json.loads(self._answer(method, path, body, kind, query or {}))

    def _answer(self, method: str, path: str, body: object, kind: str, query: dict[str, str]) -> bytes:
        content = None if body is None else json.dumps(body)
        headers = {**self._pool.headers, "content-type": kind}
        target = f"{self._url}{path}" + ("?" + urlencode(query) if query else "")
        answer = self._pool.request(method, target, body=content, headers=headers)
        if answer.status // 100 != 2:
            raise ApiError(
                answer.status, f"{method} {path}: {answer.status} {answer.data[:500].decode(errors='replace')}"
            )
        return bytes(answer.data)

    def close(self) -> None:
        self._pool.clear()
