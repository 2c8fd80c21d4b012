"""The captioner of an address, by its settings."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr
from tagstream_remote.budget import utc_day
from tagstream_remote.captioner import counter_of, remote_captioner

from remote.tests.stub import ANSWER_TOKENS, PICTURE_TOKENS, TEXT_TOKENS, StubService, caption_of
from tests.support.waiting import eventually
from workers.errors import Unanswered
from workers.settings import SecretUrl, Settings
from workers.types import ImageAbout, Partition, RemoteAnswer

ADDRESS = "http://127.0.0.1:9/v1"


def test_the_captioner_is_as_settings_and_file_say(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"prompt": "Say {tags}", "side": 512, "fields": {"mood": {"type": "string"}}}))
    plain = remote_captioner(Settings(captioner=ADDRESS, caption_model="seer"))
    own = remote_captioner(Settings(captioner=ADDRESS, caption_model="seer", caption_file=path))
    assert (plain.name, plain.guided, plain.fields, plain.transform.size) == ("seer", False, None, 768)
    assert (own.guided, own.transform.size, own.transform.exif_transpose, own.unready()) == (True, 512, True, None)
    assert own.fields is not None
    assert own.digest != plain.digest
    for each in (plain, own):
        each.close()


def test_without_redis_the_days_tokens_are_counted_here_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(captioner=ADDRESS, caption_model="seer", caption_tokens_per_day=100, state_dir=tmp_path)
    remote_captioner(settings).close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    caplog.clear()
    remote_captioner(settings.model_copy(update={"redis_url": SecretUrl("redis://127.0.0.1:9")})).close()
    remote_captioner(settings.model_copy(update={"caption_tokens_per_day": 0})).close()
    assert not caplog.records


def test_a_service_is_asked_with_the_key_of_its_file_and_its_tokens_are_counted(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("an-old-key-of-it")
    with StubService(key="the-new-key-of-it") as stub:
        settings = Settings(
            captioner=stub.address,
            caption_model=stub.model,
            caption_key=SecretStr("an-old-key-of-it"),
            secret_files={"caption_key": key},
            caption_tokens_per_day=100_000,
            state_dir=tmp_path,
        )
        captioner = remote_captioner(settings)
        pixels = np.full((768, 768, 3), 200, np.uint8)
        jpeg = captioner.encode(pixels, ImageAbout("png", 768, 768))

        def ask() -> Future[RemoteAnswer]:
            return captioner.ask(jpeg, [], Partition("images", 0), lambda answer: None)

        assert isinstance(ask().exception(20), Unanswered)
        assert captioner.unready() is not None
        key.write_text("the-new-key-of-it")
        eventually(lambda: captioner.unready() is None)
        answer = ask().result(20)
        captioner.close()
    assert answer.caption.text == caption_of(jpeg)
    counter = counter_of(settings)
    assert counter is not None
    assert counter.sum(utc_day()) == 3 * (TEXT_TOKENS + ANSWER_TOKENS) + 2 * PICTURE_TOKENS
