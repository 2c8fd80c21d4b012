"""Certificates of one control plane."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True)
class Signed:
    certificate: Path
    key: Path


class Authority:
    """An authority whose certificates live for some days.

    Args:
        folder: for its files; made here.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.certificate, self._key = folder / "ca.crt", folder / "ca.key"
        subject = ("-subj", "/CN=tagstream test authority")
        _openssl("req", "-x509", *_NEW_KEY, "-keyout", self._key, *subject, "-days", "30", "-out", self.certificate)

    def sign(self, name: str, hosts: Sequence[str]) -> Signed:
        """A certificate for both sides of a connection."""
        key, request, made = (self._folder / f"{name}.{end}" for end in ("key", "csr", "crt"))
        names = "subjectAltName=" + ",".join(f"DNS:{host}" for host in hosts) + ",IP:127.0.0.1"
        usage = "extendedKeyUsage=serverAuth,clientAuth"
        asked = ("-subj", f"/CN={name}", "-addext", names, "-addext", usage)
        _openssl("req", *_NEW_KEY, "-keyout", key, *asked, "-out", request)
        signer = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", "30")
        _openssl("x509", "-req", "-in", request, *signer, "-copy_extensions", "copy", "-out", made)
        return Signed(made, key)

    def key_pair(self, name: str) -> tuple[Path, Path]:
        """(public, private) key, as service accounts' tokens are signed with."""
        private, public = self._folder / f"{name}.key", self._folder / f"{name}.pub"
        _openssl("genrsa", "-out", private, "2048")
        _openssl("rsa", "-in", private, "-pubout", "-out", public)
        return public, private


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)
