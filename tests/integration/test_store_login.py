"""Logins to a real object store by AWS' variables, and the errors of refusals."""

from contextlib import closing
from pathlib import Path

import pytest

from tagstream_testing.local.seaweedfs import SeaweedFS
from tests.fixtures import Stack, Unique
from tests.support.harness import Harness
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess
from workers.assembly.clients import object_store
from workers.backends.s3.store import MinioObjectStore
from workers.environment import read
from workers.errors import Misconfigured, Unavailable
from workers.pipeline import worker as pipeline_worker


@pytest.fixture
def bucket(s3: SeaweedFS, unique: Unique) -> str:
    name = unique("login")
    with closing(MinioObjectStore(s3.endpoint_url, s3.access_key, s3.secret_key)) as store:
        store.make_bucket(name)
        store.put(name, "a", b"image")
    return name


def test_the_store_is_found_and_logged_in_to_by_the_variables_of_aws(
    s3: SeaweedFS, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".aws").mkdir()
    profiles = tmp_path / ".aws" / "credentials"
    keys = f"aws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
    profiles.write_text(f"[default]\naws_access_key_id = no\naws_secret_access_key = no\n[photos]\n{keys}")
    monkeypatch.setenv("HOME", str(tmp_path))
    by_key = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    by_file = {"AWS_SHARED_CREDENTIALS_FILE": str(profiles), "AWS_PROFILE": "photos"}
    for login in (by_key, by_file, {"AWS_PROFILE": "photos"}):
        with closing(object_store(read({"AWS_ENDPOINT_URL_S3": s3.endpoint_url} | login))) as store:
            store.check(bucket)
            assert store.get(bucket, "a", version_id=None, etag=None, max_bytes=9, deadline_s=30).body == b"image"
    wrong = {"TAGSTREAM_S3_ACCESS_KEY": s3.access_key, "TAGSTREAM_S3_SECRET_KEY": "wrong"}
    for login, named in (
        (by_key | wrong, "TAGSTREAM_S3_SECRET_KEY"),
        (by_key | {"AWS_SECRET_ACCESS_KEY": "wrong"}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_SHARED_CREDENTIALS_FILE": str(profiles)}, str(profiles)),
    ):
        with (
            closing(object_store(read({"AWS_ENDPOINT_URL_S3": s3.endpoint_url} | login))) as store,
            pytest.raises(Misconfigured, match=named),
        ):
            store.check(bucket)


def test_a_refused_request_without_a_key_names_the_variables_that_are_looked_at(s3: SeaweedFS, bucket: str) -> None:
    with closing(object_store(read({"TAGSTREAM_S3_ENDPOINT": s3.endpoint_url}))) as store:
        with pytest.raises(Misconfigured) as checked:
            store.check(bucket)
        with pytest.raises(Unavailable) as asked:
            store.get(bucket, "a", version_id=None, etag=None, max_bytes=9, deadline_s=30)
    for said in (str(checked.value), asked.value.advice):
        for name in ("TAGSTREAM_S3_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SHARED_CREDENTIALS_FILE", "AWS_PROFILE"):
            assert name in said


def test_a_wrong_secret_on_a_quiet_topic_makes_a_worker_unready_until_its_file_has_the_right_one(
    s3: SeaweedFS, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_worker, "_ASK_AGAIN_S", 0.2)
    secret = tmp_path / "secret"
    secret.write_text("wrong")
    keys = {"TAGSTREAM_S3_ACCESS_KEY": s3.access_key, "TAGSTREAM_S3_SECRET_KEY_FILE": str(secret)}
    harness = Harness()
    with closing(object_store(read(keys | {"TAGSTREAM_S3_ENDPOINT": s3.endpoint_url}))) as store:
        harness.refused_keys = lambda: store.refused_keys(bucket)
        with pytest.raises(Misconfigured) as checked:
            store.check(bucket)
        with harness.running() as worker:
            eventually(lambda: worker.unready() == str(checked.value))
            secret.write_text(s3.secret_key)
            eventually(lambda: worker.ready)


def test_a_worker_process_asks_the_store_before_any_event_comes(stack: Stack, unique: Unique, tmp_path: Path) -> None:
    process = WorkerProcess(Site(stack, unique("login")), "w", tmp_path, TAGSTREAM_S3_SECRET_KEY="wrong")
    try:
        eventually(lambda: "not ready: " in process.said(), 120, process.said)
        assert process.get("/readyz")[0] == 503
        assert "the secret key does not fit the access key" in process.said().partition("not ready: ")[2]
    finally:
        process.kill()
