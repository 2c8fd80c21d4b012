"""A broker as companies run it: TLS, a login by SCRAM, PLAIN or token, or certificates on both sides."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from kafka.admin import KafkaAdminClient, ScramMechanism, UserScramCredentialUpsertion

from tagstream_testing.local.apache_kafka import ApacheKafka
from tagstream_testing.local.server import CannotStart

USER, PASSWORD = "tagger", "s3cret, with spaces"
AGAIN_S = 3.0
"""A login by SCRAM lasts no longer."""


class SecureKafka(ApacheKafka):
    """A broker with a plain listener for the tests, one with TLS and a login, and one with client certificates."""

    name: ClassVar[str] = "Apache Kafka with TLS"
    port_count: ClassVar[int] = 4
    ready_within_s: ClassVar[float] = 180.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.authority = Authority(folder.with_name(f"{folder.name}-authority"))
        self._certificate, self._key = self.authority.sign("broker")

    @property
    def login(self) -> str:
        return f"127.0.0.1:{self.ports[2]}"

    @property
    def mutual(self) -> str:
        """host:port with SSL, where the client must have a certificate."""
        return f"127.0.0.1:{self.ports[3]}"

    def wait(self) -> None:
        super().wait()
        self.add_user()

    def add_user(self, password: str = PASSWORD) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self.servers)
        try:
            admin.alter_user_scram_credentials(
                [UserScramCredentialUpsertion(USER, ScramMechanism.SCRAM_SHA_512, password)]
            )
        finally:
            admin.close()

    def _properties(self) -> dict[str, str]:
        own = super()._properties()
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule"
        oauth = "org.apache.kafka.common.security.oauthbearer"
        return own | {
            "listeners": f"{own['listeners']},LOGIN://{self.login},MUTUAL://{self.mutual}",
            "advertised.listeners": f"{own['advertised.listeners']},LOGIN://{self.login},MUTUAL://{self.mutual}",
            "listener.security.protocol.map": (f"{own['listener.security.protocol.map']},LOGIN:SASL_SSL,MUTUAL:SSL"),
            "listener.name.login.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN,OAUTHBEARER",
            # Which takes tokens without a signature, if they have not ended.
            "listener.name.login.oauthbearer.sasl.jaas.config": f"{oauth}.OAuthBearerLoginModule required;",
            # A login by SCRAM has to be repeated after this time (KIP-368).
            "listener.name.login.scram-sha-512.connections.max.reauth.ms": str(round(1000 * AGAIN_S)),
            "listener.name.login.scram-sha-512.sasl.jaas.config": f"{scram} required;",
            "listener.name.login.plain.sasl.jaas.config": f'{plain} required user_{USER}="{PASSWORD}";',
            "listener.name.mutual.ssl.client.auth": "required",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.certificate.chain": _one_line(self._certificate),
            "ssl.keystore.key": _one_line(self._key),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.certificates": _one_line(self.authority.certificate),
        }


def unsigned_token(user: str, life_s: float) -> str:
    """A token of RFC 7519 that says who it is for and when it ends, and has no signature."""
    now = time.time()
    claims = {"sub": user, "iat": now - 1, "exp": now + life_s}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "none"}, claims)]
    return b".".join([*parts, b""]).decode()


def _one_line(pem: Path) -> str:
    """As a .properties file wants it."""
    return pem.read_text().strip().replace("\n", "\\n")


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout")


class Authority:
    """A certificate authority of this test alone."""

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
