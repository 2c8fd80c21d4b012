"""A photograph's way to the search page: store, topic, worker, topic, index, and a real browser."""

import io
from contextlib import closing
from pathlib import Path

import pytest
from PIL import ExifTags, Image
from playwright.sync_api import expect

from index.tests.browsing import chromium, served
from index.tests.support import settings_of, with_tables
from index.tests.world import IndexRun
from tagstream_index.page import pictures
from tagstream_testing.local.photos import photographs
from tagstream_testing.local.postgresql import PostgreSQL
from tests.fixtures import Stack, Unique
from tests.support.proxy import FaultProxy
from tests.support.waiting import eventually
from tests.support.worker_process import Site, enriched_by_a_worker

pytestmark = [pytest.mark.servers, pytest.mark.slow]


def photograph_and_copy() -> dict[str, bytes]:
    """A photograph of a day of May, and the same at three quarters of its size without a date."""
    (photo,) = (each for each in photographs(None) if each.path.stem == "chelsea")
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2026:05:17 14:03:00"
    written = {}
    with Image.open(io.BytesIO(photo.read())) as image:
        image.convert("RGB").save(original := io.BytesIO(), "JPEG", quality=95, exif=exif)
        small = image.convert("RGB").resize((image.width * 3 // 4, image.height * 3 // 4))
        small.save(copy := io.BytesIO(), "JPEG", quality=60)
    written["may.jpg"], written["copy.jpg"] = original.getvalue(), copy.getvalue()
    return written


def test_a_photograph_is_on_the_page_by_its_date_with_its_hash_and_its_copy(
    stack: Stack, postgresql: PostgreSQL, unique: Unique, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_PATIENCE", {"get_timeout_s": 120.0})  # a slow store has not failed
    site = Site(stack, unique("line"))
    enriched_by_a_worker(site, tmp_path, photograph_and_copy())
    s3, name = stack.s3, site.name.replace("-", "_")
    settings = settings_of(
        postgresql,
        name,
        kafka_servers=(stack.kafka.servers,),
        output_topic=site.enriched,
        index_group=name,
        buckets=(site.name,),
        s3_access_key=s3.access_key,
        s3_secret_key=s3.secret_key,
    )
    environment = {
        "TAGSTREAM_KAFKA_SERVERS": stack.kafka.servers,
        "TAGSTREAM_OUTPUT_TOPIC": site.enriched,
        "TAGSTREAM_INDEX_DSN": postgresql.dsn,
        "TAGSTREAM_INDEX_SCHEMA": name,
        "TAGSTREAM_INDEX_GROUP": name,
    }
    indexer = IndexRun(tmp_path / "index", environment)
    with (
        closing(with_tables(settings)) as tables,
        closing(FaultProxy(lambda: int(s3.endpoint_url.rpartition(":")[2]))) as objects,
        served(settings.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{objects.port}"})) as address,
        chromium(tmp_path) as browser,
    ):
        indexer.start()
        try:
            eventually(lambda: tables.execute("select count(*) from image").fetchone() == (2,), 60)
        finally:
            indexer.kill()
        objects.freeze()
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        expect(page.locator(".cell canvas")).to_have_count(2, timeout=30_000)
        expect(page.locator(".month").filter(has_text="May 2026").locator(".cell")).to_contain_text("may.jpg")
        expect(page.get_by_role("link", name="2 copies")).to_have_count(2)
        objects.heal()
        expect(page.locator(".cell canvas")).to_have_count(0, timeout=60_000)
        page.locator(".cell").filter(has_text="may.jpg").click()
        expect(page.locator(".facts")).to_contain_text("Taken 17 May 2026, 14:03")
        expect(page.locator(".copies li").filter(has_text="largest")).to_contain_text("may.jpg")
