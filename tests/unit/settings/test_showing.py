"""Settings as people see them: masked, and as the tables of the documentation."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from scripts.fill_tables import filled, settings_table
from workers.environment import FIELDS, is_secret, read, secret_values, shown, url_tokens, variable, variables
from workers.errors import Misconfigured
from workers.settings import SecretUrl, Settings

ROOT = Path(__file__).parents[3]

SECRETS = {
    "TAGSTREAM_S3_ACCESS_KEY": "hush1",
    "TAGSTREAM_S3_SECRET_KEY": "hush2",
    "TAGSTREAM_KAFKA_PASSWORD": "hush3",
    "TAGSTREAM_KAFKA_TLS_KEY_PASSWORD": "hush4",
    "TAGSTREAM_CACHE_KEY": "hush6" * 8,
    "TAGSTREAM_CAPTION_KEY": "hush8",
    "TAGSTREAM_REDIS_URL": "redis://user:hush%2F5@cache:6379/2?ssl_password=hush7",
}


def test_secrets_are_masked_wherever_settings_are_shown() -> None:
    settings = read(SECRETS)
    for text in (repr(settings), str(settings), str(shown(settings)), settings.model_dump_json()):
        assert "hush" not in text


def test_the_list_of_secrets_above_is_complete() -> None:
    assert {variable(field) for field in FIELDS if is_secret(field)} == set(SECRETS)


def test_of_a_url_only_its_place_is_shown() -> None:
    assert shown(read(SECRETS))["TAGSTREAM_REDIS_URL"] == "redis://cache:6379"
    assert str(SecretUrl("rediss://[::1]:6379/2?password=hush")) == "rediss://[::1]:6379"
    assert str(SecretUrl("unix:///run/redis.sock?password=hush")) == "unix:///run/redis.sock"


@given(st.text("ab/#?@:%& =[]", min_size=1, max_size=12))
def test_no_password_is_shown_wherever_the_url_ends_for_a_parser(password: str) -> None:
    secret = f"hush{password}hush"
    for url in (f"redis://user:{secret}@cache:6379/0", f"redis://:{secret}@cache", f"redis://cache?password={secret}"):
        assert "hush" not in str(SecretUrl(url))
        try:
            read({"TAGSTREAM_REDIS_URL": url})
        except Misconfigured as error:
            assert "hush" not in str(error)  # noqa: PT017  # most are right


@pytest.mark.parametrize("url", ["redis://:pa/ss@cache", "redis://:pa#ss@cache", "redis://:pa?ss@cache:1/0"])
def test_a_password_that_is_not_escaped_is_refused_with_the_way_to_write_it(url: str) -> None:
    with pytest.raises(Misconfigured, match="%2F"):
        read({"TAGSTREAM_REDIS_URL": url})


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("TAGSTREAM_S3_ENDPOINT", "http://:hush@store:9000"),
        ("TAGSTREAM_S3_ENDPOINT", "http://user:hush@store:9000"),
        ("TAGSTREAM_REDIS_URL", "http://user:hush@cache"),
    ],
)
def test_a_login_in_a_wrong_url_is_not_repeated_in_the_complaint(name: str, url: str) -> None:
    with pytest.raises(Misconfigured, match=name) as caught:
        read({name: url})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("name", ["TAGSTREAM_S3_ENDPOINT", "AWS_ENDPOINT_URL_STS", "TAGSTREAM_KAFKA_TOKEN_ENDPOINT"])
@pytest.mark.parametrize("url", ["https://store/?token=hush", "store:9000?token=hush", "https://store#hush"])
def test_a_query_in_an_endpoint_is_refused_and_not_shown(name: str, url: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        read({name: url, "AWS_WEB_IDENTITY_TOKEN_FILE": "/t"})
    assert "hush" not in str(caught.value)
    assert name in str(caught.value)
    assert "store" in str(caught.value)


def test_what_other_urls_hold_as_tokens_is_seen_nowhere() -> None:
    urls = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c/v1/traces?key=hush%2Fhush1&format=json", "HOME": "/?x=y"}
    assert set(url_tokens(urls)) == {"key=hush%2Fhush1&format=json", "hush/hush1"}


def test_what_must_be_seen_nowhere_is_every_secret_and_of_a_url_its_password() -> None:
    assert secret_values(read(SECRETS)) == [
        "hush4",
        "hush3",
        "hush1",
        "hush2",
        "hush%2F5",
        "hush/5",
        "hush7",
        "hush6" * 8,
        "hush8",
    ]
    assert secret_values(read({"TAGSTREAM_REDIS_URL": "redis://cache:6379"})) == []


def test_values_are_shown_as_they_may_be_set_again() -> None:
    settings = Settings(kafka_servers=("a:1", "b:2"), http_port=None, roles={"sharpness": "a", "faces": "b"})
    again = read({name: value for name, value in shown(settings).items() if value})
    assert again == settings


def test_every_setting_has_a_meaning_and_a_group() -> None:
    for field, info in FIELDS.items():
        assert info.description, field
        assert isinstance(info.json_schema_extra, dict), field


def test_the_table_names_every_variable_once() -> None:
    table = settings_table()
    for field in FIELDS:
        assert table.count(f"| `{variable(field)}`") == 1


def test_a_secret_never_has_a_default() -> None:
    for field in FIELDS:
        if is_secret(field):
            default = FIELDS[field].default
            assert isinstance(default, SecretStr)
            assert not default.get_secret_value()


def test_the_documentations_table_is_up_to_date() -> None:
    """`scripts/fill_tables.py` repairs this."""
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    assert settings_table() in page
    assert filled(page) == page


_NOT_OURS = {"TAGSTREAM_SERVICE_HOST"}
"""Made by Kubernetes."""


@pytest.mark.parametrize(
    "where", ["*.md", "docs/**/*.md", "docs/**/*.svg", "deploy/**/*.*", "*.yml", "workers/**/*.py"]
)
def test_every_name_in_docs_manifests_and_messages_is_a_setting(where: str) -> None:
    pages = [page for page in ROOT.glob(where) if page.name not in ("CHANGELOG.md", "settings.py") and page.is_file()]
    assert pages
    for page in pages:
        named = set(re.findall(r"TAGSTREAM_[A-Z0-9_]*[A-Z0-9]\b", page.read_text(encoding="utf-8")))
        of_the_index = {name for name in named if name.startswith("TAGSTREAM_INDEX_")}  # index/tests looks at these
        assert named - of_the_index <= variables() | _NOT_OURS, page


def test_a_page_without_markers_is_left_alone() -> None:
    begin, end = "<!-- settings:begin -->", "<!-- settings:end -->"
    assert filled("nothing here") == "nothing here"
    assert filled(f"a {begin} old {end} z") == f"a {begin}\n{settings_table()}{end} z"
