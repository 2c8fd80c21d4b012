"""The captioner of an address, by its settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tagstream_remote.captioner import remote_captioner

from workers.errors import Misconfigured
from workers.settings import SecretUrl, Settings

ADDRESS = "http://127.0.0.1:9/v1"


def test_the_captioner_is_as_settings_and_file_say(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"prompt": "Say {tags}", "side": 512, "fields": {"mood": {"type": "string"}}}))
    plain = remote_captioner(Settings(captioner=ADDRESS, caption_model="seer"))
    own = remote_captioner(Settings(captioner=ADDRESS, caption_model="seer", caption_file=path))
    assert (plain.name, plain.guided, plain.fields, plain.transform.size) == ("seer", False, None, 768)
    assert own.guided
    assert own.fields is not None
    assert own.transform.size == 512
    assert own.digest != plain.digest
    assert own.transform.exif_transpose
    assert own.unready() is None
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


def test_a_file_that_is_wrong_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text('{"side": 1}')
    with pytest.raises(Misconfigured, match="TAGSTREAM_CAPTION_FILE"):
        remote_captioner(Settings(captioner=ADDRESS, caption_model="seer", caption_file=path))
