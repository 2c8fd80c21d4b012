"""Certificates for servers of one test."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tagstream_testing.local.server import CannotStart

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout")


class Authority:
    """A certificate authority of this test alone.

    Args:
        folder: for its files; made here.
    """

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            raise CannotStart("The program openssl, which makes the test's certificates, is not installed.")
        folder.mkdir()
        self._folder = folder
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"
        self._openssl("req", "-x509", *_NEW_KEY, self._key, "-subj", "/CN=test authority", "-out", self.certificate)

    def sign(self, name: str, hosts: Sequence[str] = ()) -> tuple[Path, Path]:
        """(certificate, its key), both PEM: for 127.0.0.1 and these hosts, on either side of a connection."""
        key, request, certificate = (self._folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        names = ",".join(["IP:127.0.0.1", *(f"DNS:{host}" for host in hosts)])
        asked = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={names}", "-addext", _USAGE)
        self._openssl("req", *_NEW_KEY, key, *asked, "-out", request)
        signer = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", "2")
        self._openssl("x509", "-req", "-in", request, *signer, "-copy_extensions", "copy", "-out", certificate)
        return certificate, key

    def key_pair(self, name: str) -> tuple[Path, Path]:
        """(public, private) RSA key, for signing tokens."""
        private, public = self._folder / f"{name}.key", self._folder / f"{name}.pub"
        self._openssl("genrsa", "-out", private, "2048")
        self._openssl("rsa", "-in", private, "-pubout", "-out", public)
        return public, private

    @staticmethod
    def _openssl(*arguments: str | Path) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


_USAGE = "extendedKeyUsage=serverAuth,clientAuth"
