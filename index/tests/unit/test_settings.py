"""The settings of the index, which the worker does not have."""

from pathlib import Path

import pytest

from tagstream_index.settings import FOR_EVER, IndexSettings
from workers.environment import FIELDS, examine, fields_of, read, secret_values, unknown, variable
from workers.errors import Misconfigured

DSN = "postgresql://indexer:open%20sesame@db.example:5432/images"
OWN = {"TAGSTREAM_INDEX_DSN": DSN, "TAGSTREAM_INDEX_BATCH": "10"}


def examined(**texts: str) -> tuple[IndexSettings, list[str]]:
    return examine(IndexSettings, {f"TAGSTREAM_{name.upper()}": text for name, text in texts.items()}, "index_dsn")


def test_the_worker_passes_them_by() -> None:
    assert read(OWN) == read({})
    assert unknown("TAGSTREAM_INDEX_DSN") == ""
    with pytest.raises(Misconfigured, match="TAGSTREAM_INDE_DSN"):
        read({"TAGSTREAM_INDE_DSN": DSN})


def test_an_unknown_one_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(Misconfigured, match=r"TAGSTREAM_INDEX_DNS is not .* TAGSTREAM_INDEX_DSN\?"):
        examined(index_dns=DSN)
    with pytest.raises(Misconfigured, match="TAGSTREAM_BUCKET "):
        examined(bucket="a")


def test_the_address_is_required_and_its_password_shown_nowhere() -> None:
    (missing,) = examined()[1]
    assert "TAGSTREAM_INDEX_DSN is not set" in missing
    (wrong,) = examined(index_dsn="mysql://a:secret@b/c")[1]
    assert "postgresql://" in wrong
    assert "secret" not in wrong
    settings, _ = examined(index_dsn=DSN)
    assert str(settings.index_dsn) == "postgresql://db.example:5432"
    assert {"open%20sesame", "open sesame"} <= set(secret_values(settings))


def test_the_address_may_come_from_a_file(tmp_path: pytest.TempPathFactory) -> None:
    path = f"{tmp_path}/dsn"
    with open(path, "w") as file:
        file.write(f"{DSN}\n")
    assert examined(index_dsn_file=path)[0].index_dsn.get_secret_value() == DSN


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("90m", 5_400), ("45s", 45), ("Forever", FOR_EVER)]
)
def test_how_long_a_removed_image_is_remembered_is_a_time(text: str, seconds: float) -> None:
    assert examined(index_dsn=DSN, index_forget_after=text)[0].index_forget_after == seconds


@pytest.mark.parametrize(
    ("name", "text"),
    [("forget_after", "a week"), ("forget_after", "0d"), ("batch", "0"), ("schema", "A b"), ("http_port", "99999")],
)
def test_a_wrong_value_is_one_sentence(name: str, text: str) -> None:
    (wrong,) = examined(index_dsn=DSN, **{f"index_{name}": text})[1]
    assert wrong.startswith(f"TAGSTREAM_INDEX_{name.upper()}={text.removesuffix('d')}")


def test_the_guide_has_each_of_them_with_its_default() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "guide" / "index-search.md").read_text(encoding="utf-8")
    fields = fields_of(IndexSettings)
    for name in fields.keys() - FIELDS.keys():
        told = "forever" if name == "index_forget_after" else fields[name].default
        default = "" if name in ("index_dsn", "index_page_token", "index_store_url") else f"`{told}`"
        assert f"| `{variable(name)}` | {default}{' ' if default else ''}|" in guide
