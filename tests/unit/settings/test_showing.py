"""Settings as people see them: masked, and as the tables of the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from workers.errors import Misconfigured
from workers.settings import (
    BEGIN,
    END,
    FIELDS,
    SecretUrl,
    Settings,
    fill,
    is_secret,
    markdown,
    read,
    secret_values,
    shown,
    variable,
)

ROOT = Path(__file__).parents[3]

SECRETS = {
    "TAGSTREAM_S3_ACCESS_KEY": "hush1",
    "TAGSTREAM_S3_SECRET_KEY": "hush2",
    "TAGSTREAM_KAFKA_PASSWORD": "hush3",
    "TAGSTREAM_KAFKA_TLS_KEY_PASSWORD": "hush4",
    "TAGSTREAM_REDIS_URL": "redis://user:hush5@cache:6379/2",
}


def test_secrets_are_masked_wherever_settings_are_shown() -> None:
    settings = read(SECRETS)
    for text in (repr(settings), str(settings), str(shown(settings)), settings.model_dump_json()):
        assert "hush" not in text


def test_the_list_of_secrets_above_is_complete() -> None:
    assert {variable(field) for field in FIELDS if is_secret(field)} == set(SECRETS)


def test_a_url_keeps_all_but_its_password_when_shown() -> None:
    assert shown(read(SECRETS))["TAGSTREAM_REDIS_URL"] == "redis://user:***@cache:6379/2"
    assert str(SecretUrl("redis://cache:6379")) == "redis://cache:6379"


def test_what_must_be_seen_nowhere_is_every_secret_and_of_a_url_its_password() -> None:
    assert secret_values(read(SECRETS)) == ["hush4", "hush3", "hush1", "hush2", "hush5"]
    assert secret_values(read({"TAGSTREAM_REDIS_URL": "redis://cache:6379"})) == []


def test_a_wrong_secret_is_not_repeated_in_the_complaint() -> None:
    with pytest.raises(Misconfigured) as caught:
        read({"TAGSTREAM_REDIS_URL": "http://user:hush@cache"})
    assert "hush" not in str(caught.value)


def test_values_are_shown_as_they_may_be_set_again() -> None:
    settings = Settings(kafka_servers=("a:1", "b:2"), http_port=None)
    again = read({name: value for name, value in shown(settings).items() if value})
    assert again == settings


def test_every_setting_has_a_meaning_and_a_group() -> None:
    for field, info in FIELDS.items():
        assert info.description, field
        assert isinstance(info.json_schema_extra, dict), field


def test_the_table_names_every_variable_once() -> None:
    table = markdown()
    for field in FIELDS:
        assert table.count(f"| `{variable(field)}`") == 1


def test_a_secret_never_has_a_default() -> None:
    for field in FIELDS:
        if is_secret(field):
            default = FIELDS[field].default
            assert isinstance(default, SecretStr)
            assert not default.get_secret_value()


def test_the_documentations_tables_are_up_to_date() -> None:
    """`tagstream settings --fill docs/settings.md --fill README.md` mends this."""
    page = ROOT / "docs" / "settings.md"
    assert BEGIN in page.read_text(encoding="utf-8")
    for path in (page, ROOT / "README.md"):
        if path.exists():
            text = path.read_text(encoding="utf-8")
            assert fill(text) == text, path.name


def test_a_page_without_markers_is_left_alone() -> None:
    assert fill("nothing here") == "nothing here"
    assert fill(f"a {BEGIN} old {END} z") == f"a {BEGIN}\n{markdown()}{END} z"
