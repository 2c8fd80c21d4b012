"""Renditions on real servers: which of the two was read, and that no rendition costs an image its outcome."""

import io
import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from minio import Minio
from minio.commonconfig import ENABLED
from minio.versioningconfig import VersioningConfig
from PIL import Image

from schemas.enriched_image import EnrichedImage, Skip
from tests.fixtures import Stack, Unique
from tests.support.exif import TAKEN, whole
from tests.support.images import encoded
from tests.support.waiting import eventually
from tests.support.worker_process import Site, worker

pytestmark = pytest.mark.timeout(240)

MORE = bytes(100_000)


def jpeg(number: int, size: tuple[int, int] = (96, 128)) -> bytes:
    return encoded(Image.linear_gradient("L").rotate(7 * number).resize(size).convert("RGB"), "jpeg")


def original(number: int) -> bytes:
    """Stored on its side."""
    picture = Image.open(io.BytesIO(jpeg(number, (192, 256)))).rotate(90, expand=True)
    return encoded(picture, "jpeg", exif=b"Exif\0\0" + whole("<")) + MORE


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + MORE
COPIES = {
    "made": jpeg(1),
    "same": jpeg(1),
    "heic": jpeg(2),
    "large": jpeg(3),
    "shape": jpeg(4, (128, 96)),
    "broken": jpeg(5)[:900],
    "none": b"no image",
    "more": jpeg(6) + 9 * MORE,
    "small": jpeg(7),
    "refused": jpeg(8),
    "versions": jpeg(9),
}
READ = {"made", "same", "heic", "large"}
ANSWERS = {"read": 7, "absent": 1, "refused": 1, "older": 1, "shape": 1, "broken": 3, "failed": 0}


def test_every_image_has_its_outcome_whatever_becomes_of_its_rendition(
    stack: Stack, unique: Unique, tmp_path: Path
) -> None:
    site = Site(stack, unique("renditions"), partitions=2)
    web = f"{site.name}-web"
    site.store.make_bucket(web)
    host = urlsplit(stack.s3.endpoint_url).netloc
    client = Minio(host, stack.s3.access_key, stack.s3.secret_key, secure=False)
    client.set_bucket_versioning(site.name, VersioningConfig(ENABLED))
    refused = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{web}/refused*"}
    client.set_bucket_policy(web, json.dumps({"Version": "2012-10-17", "Statement": [refused]}))
    client._http.clear()
    site.store.put(web, "older.jpg", jpeg(10))
    bodies = {name: original(number) for number, name in enumerate([*COPIES, "absent", "older"])}
    bodies |= {"heic": HEIC, "large": original(11) + 3 * MORE, "small": jpeg(12, (128, 96))}
    time.sleep(1.1)  # the store's times are in seconds
    old = (
        site.store.put(site.name, "versions", original(13)),
        site.store.get(site.name, "versions", version_id=None, etag=None, max_bytes=1 << 20, deadline_s=9),
    )
    etags = {name: site.upload(name, body) for name, body in bodies.items()}
    for name, body in COPIES.items():
        site.store.put(web, f"{name}.jpg", body)
    events = [site.own(name, etag=etags[name], size=len(bodies[name])) for name in bodies if name != "versions"]
    events += [site.own("versions", version_id=old[1].version_id)]
    of_copies = [site.own(f"{name}.jpg", bucket=web) for name in ("made", "older")]
    with worker(
        site,
        "w",
        tmp_path,
        TAGSTREAM_BUCKETS=f"{site.name},{web}",
        TAGSTREAM_RENDITION="{bucket}-web/{key}.jpg",
        TAGSTREAM_MAX_OBJECT_BYTES="300000",
    ) as process:
        site.send([(event, ()) for event in (*events, *of_copies)])
        eventually(lambda: site.behind() == 0, 90, process.said)
        site.send([(event, ()) for event in events])
        eventually(lambda: site.behind() == 0, 90, process.said)
        counted = {answer: process.metric("tagstream_renditions_total", answer=answer) for answer in ANSWERS}
        assert process.terminate() == 0, process.said()
    assert site.outcomes() == site.inputs()
    assert site.letters() == []
    outputs = site.outputs()
    assert sorted(out.subject or "" for out in outputs if isinstance(out, Skip)) == sorted(
        f"{web}/{name}.jpg" for name in ("made", "older")
    )
    images = [out for out in outputs if isinstance(out, EnrichedImage)]
    assert {image.source.key for image in images if image.source.read is not None} == READ
    assert {image.source.key for image in images if image.source.read is None} == {*bodies} - READ
    for image in images:
        name = image.source.key
        if name != "versions":
            assert (image.source.etag, image.image.bytes) == (etags[name], len(bodies[name]))
        if name not in ("heic", "small"):
            assert (image.image.width, image.image.orientation, image.image.taken_at) == (256, 6, TAKEN)
    assert {image.source.etag for image in images if image.source.key == "versions"} == {old[0]}
    later = [image for image in images if image.cache.source == "hit"]
    assert len(later) == len(events)
    assert not any("fetch" in image.timings_ms for image in later), "no request was needed"
    assert counted == ANSWERS
