"""A broker as companies run it: TLS, a login by SCRAM or PLAIN, or certificates on both sides."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

from kafka.admin import KafkaAdminClient, ScramMechanism, UserScramCredentialUpsertion

from workers.local.apache_kafka import ApacheKafka
from workers.local.server import CannotStart

USER, PASSWORD = "tagger", "s3cret, with spaces"


class Authority:
    """A certificate authority of this test alone; every certificate is for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            raise CannotStart("The program openssl, which makes the test's certificates, is not installed.")
        folder.mkdir()
        self._folder = folder
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"
        self._openssl("req", "-x509", *_NEW_KEY, self._key, "-subj", "/CN=test authority", "-out", self.certificate)

    def sign(self, name: str) -> tuple[Path, Path]:
        """(certificate, its key), both PEM."""
        key, request, certificate = (self._folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        self._openssl("req", *_NEW_KEY, key, "-subj", f"/CN={name}", "-addext", _HOST, "-out", request)
        signer = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", "2")
        self._openssl("x509", "-req", "-in", request, *signer, "-copy_extensions", "copy", "-out", certificate)
        return certificate, key

    @staticmethod
    def _openssl(*arguments: str | Path) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout")
_HOST = "subjectAltName=IP:127.0.0.1"


class SecureKafka(ApacheKafka):
    """Beside its plain listener, by which tests look on, one with TLS and a login, and one with client certificates."""

    name: ClassVar[str] = "Apache Kafka with TLS"
    port_count: ClassVar[int] = 4

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.authority = Authority(folder.with_name(f"{folder.name}-authority"))
        self._certificate, self._key = self.authority.sign("broker")

    @property
    def login(self) -> str:
        """host:port with SASL_SSL."""
        return f"127.0.0.1:{self.ports[2]}"

    @property
    def mutual(self) -> str:
        """host:port with SSL, where the client must have a certificate."""
        return f"127.0.0.1:{self.ports[3]}"

    def add_user(self) -> None:
        """USER may log in with PASSWORD by SCRAM."""
        admin = KafkaAdminClient(bootstrap_servers=self.servers)
        try:
            admin.alter_user_scram_credentials(
                [UserScramCredentialUpsertion(USER, ScramMechanism.SCRAM_SHA_512, PASSWORD)]
            )
        finally:
            admin.close()

    def _properties(self) -> dict[str, str]:
        own = super()._properties()
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule"
        return own | {
            "listeners": f"{own['listeners']},LOGIN://{self.login},MUTUAL://{self.mutual}",
            "advertised.listeners": f"{own['advertised.listeners']},LOGIN://{self.login},MUTUAL://{self.mutual}",
            "listener.security.protocol.map": (f"{own['listener.security.protocol.map']},LOGIN:SASL_SSL,MUTUAL:SSL"),
            "listener.name.login.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
            "listener.name.login.scram-sha-512.sasl.jaas.config": f"{scram} required;",
            "listener.name.login.plain.sasl.jaas.config": f'{plain} required user_{USER}="{PASSWORD}";',
            "listener.name.mutual.ssl.client.auth": "required",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.certificate.chain": _one_line(self._certificate),
            "ssl.keystore.key": _one_line(self._key),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.certificates": _one_line(self.authority.certificate),
        }


def _one_line(pem: Path) -> str:
    """As a .properties file wants it."""
    return pem.read_text().strip().replace("\n", "\\n")
