"""Write the digest behind each image's tag into the files that name it: `name:tag` becomes `name:tag@sha256:…`.

    python scripts/pin_images.py Dockerfile docker-compose.yml

A tag can be moved, a digest can't. One that is pinned already is looked up anew, so this is also how to take an image's
security updates. Exit code 1 when a registry did not tell: those names stay as they are, and are named.

REGISTRY=http://127.0.0.1:5000 asks a mirror instead of Docker Hub.
"""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path

HUB = "https://registry-1.docker.io"
INDEXES = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
OURS = "tagstream"
NAMED = re.compile(
    r"(?m)^(?P<before># syntax=|ARG [A-Z]+_IMAGE=|\s+image: )(?P<name>[a-z0-9./-]+):(?P<tag>[\w.-]+)"
    r"(?P<digest>@sha256:[0-9a-f]{64})?$"
)
TIMEOUT_S = 20


def main(paths: list[str]) -> int:
    registry = os.environ.get("REGISTRY", HUB)
    failed = False
    for path in map(Path, paths):
        text = path.read_text()
        for found in {match[0]: match for match in NAMED.finditer(text)}.values():
            if found["name"] == OURS:
                continue
            try:
                digest = digest_of(registry, found["name"], found["tag"])
            except (OSError, ValueError) as error:
                print(f"Not pinned: {found['name']}:{found['tag']} in {path}: {error}", file=sys.stderr)  # noqa: T201
                failed = True
            else:
                pinned = f"{found['before']}{found['name']}:{found['tag']}@{digest}"
                text = re.sub(rf"(?m)^{re.escape(found[0])}$", pinned, text)
        path.write_text(text)
    return int(failed)


def digest_of(registry: str, name: str, tag: str) -> str:
    """The digest of the index over all platforms, as the registry tells it.

    Raises:
        OSError: the registry can't be reached, or refuses.
        ValueError: its answer is none.
    """
    address = f"{registry}/v2/{name if '/' in name else f'library/{name}'}/manifests/{tag}"
    try:
        answered = head(address, {})
    except urllib.error.HTTPError as error:
        if error.code != 401:
            raise
        answered = head(address, {"Authorization": f"Bearer {token(error.headers.get('WWW-Authenticate', ''))}"})
    digest = answered.get("Docker-Content-Digest", "")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ValueError(f"the registry tells no digest: {digest!r}")
    return digest


def head(address: str, headers: Mapping[str, str]) -> Mapping[str, str]:
    request = urllib.request.Request(address, method="HEAD", headers={"Accept": INDEXES, **headers})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return dict(answer.headers.items())


def token(challenge: str) -> str:
    """The anonymous token for reading, from where the registry's challenge says."""
    told = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = told.get("realm", "")
    if not realm.startswith(("https://", "http://127.0.0.1:")):
        raise ValueError(f"the registry's challenge leads nowhere: {challenge!r}")
    query = urllib.parse.urlencode({name: told[name] for name in ("service", "scope") if name in told})
    with urllib.request.urlopen(f"{realm}?{query}", timeout=TIMEOUT_S) as answer:
        found = json.loads(answer.read(1_000_000)).get("token")
    if not isinstance(found, str):
        raise ValueError("the registry gives no token")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
