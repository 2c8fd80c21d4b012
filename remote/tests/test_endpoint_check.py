"""A start checks the settings of a service, and `tagstream check` asks it once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tagstream_remote.budget import Budget
from tagstream_remote.captioner import counter_of
from tagstream_remote.endpoint_check import EndpointCheck

from remote.tests.stub import MODEL, StubService
from workers.assembly import findings
from workers.assembly.needs import needed, with_models
from workers.assembly.requirements import of_models
from workers.errors import Misconfigured, Unavailable
from workers.settings import Settings


def made(stub: StubService, folder: Path, file: object = None, **more: Any) -> Settings:
    settings: dict[str, Any] = {"captioner": stub.address, "caption_model": MODEL, "caption_key": "sk-secret"} | more
    if file is not None:
        path = folder / "caption.json"
        path.write_text(json.dumps(file))
        settings["caption_file"] = path
    return Settings(**settings)


FIELDS = {"fields": {"people": {"type": "number"}}}


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService(key="sk-secret") as service:
        yield service


def test_a_right_service_is_asked_once_and_costs_nothing(stub: StubService, tmp_path: Path) -> None:
    assert EndpointCheck(made(stub, tmp_path)).ask() == f"{stub.address} lists {MODEL}"
    assert EndpointCheck(made(stub, tmp_path, caption_model=f"{MODEL}:latest")).ask()
    assert (stub.looks, stub.asked) == (2, [])


def test_fields_are_told_if_not_wanted_and_wanted_only_where_the_file_has_some(
    stub: StubService, tmp_path: Path
) -> None:
    want = ("caption", "fields")
    assert "TAGSTREAM_WANT lacks" in EndpointCheck(made(stub, tmp_path, FIELDS)).ask()
    assert "TAGSTREAM_WANT" not in EndpointCheck(made(stub, tmp_path, FIELDS, want=want)).ask()
    with pytest.raises(Misconfigured, match="TAGSTREAM_WANT=caption,fields"):
        EndpointCheck(made(stub, tmp_path, {"side": 448}, want=want))


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("caption_model", "stub-vml", f"lists {MODEL}. Do you mean '{MODEL}'"),
        ("caption_key", "sk-other", "TAGSTREAM_CAPTION_KEY"),
        ("captioner", "/v2", "404"),
    ],
)
def test_a_wrong_name_key_or_path_is_said(stub: StubService, name: str, wrong: str, says: str, tmp_path: Path) -> None:
    wrong = stub.address.replace("/v1", wrong) if name == "captioner" else wrong
    with pytest.raises(Misconfigured, match=says) as caught:
        EndpointCheck(made(stub, tmp_path, **{name: wrong})).ask()
    assert "sk-" not in str(caught.value)


def test_a_service_that_lists_no_models_may_have_the_right_one(
    stub: StubService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagstream_remote.client.MOST_BYTES", 10)
    said = EndpointCheck(made(stub, tmp_path, FIELDS)).ask()
    assert "not known" in said
    assert "TAGSTREAM_WANT lacks" in said


def test_an_absent_service_is_no_fault_of_the_settings(stub: StubService, tmp_path: Path) -> None:
    stub.down()
    with pytest.raises(Unavailable):
        EndpointCheck(made(stub, tmp_path)).ask()


def test_check_and_a_start_ask_of_an_address(stub: StubService, tmp_path: Path) -> None:
    settings = made(stub, tmp_path, FIELDS, tagger=str(tmp_path / "none"))
    assert stub.address in dict(findings._questions(settings))["Captioner"]()
    wrong = made(stub, tmp_path, {"prompts": "?"}, tagger=str(tmp_path / "none"))
    with pytest.raises(Misconfigured, match="TAGSTREAM_CAPTION_FILE"):
        list(of_models(wrong))[-1]()
    assert stub.looks == 1, "a start asks nothing"


def test_a_worker_without_a_service_wants_no_fields_and_a_command_may(
    stub: StubService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = made(stub, tmp_path, FIELDS)
    environment = {"CAPTIONER": stub.address, "CAPTION_MODEL": MODEL, "CAPTION_FILE": str(service.caption_file)}
    for name, value in (environment | {"WANT": "tags,fields", "STATE_DIR": str(tmp_path)}).items():
        monkeypatch.setenv(f"TAGSTREAM_{name}", value)
    assert with_models(None, "none", "cpu").want == ("tags", "fields")
    needed(worker=True)
    with pytest.raises(Misconfigured, match="TAGSTREAM_WANT=tags,fields"):
        needed(worker=True, TAGSTREAM_CAPTIONER="template")
    with pytest.raises(Misconfigured, match="TAGSTREAM_WANT"):
        dict(findings._questions(service.model_copy(update={"captioner": "none", "want": ("fields",)})))["Fields"]()


def test_the_days_tokens_are_told_where_they_have_a_limit(tmp_path: Path) -> None:
    settings = Settings(captioner="https://vlm.example/v1", caption_model=MODEL, state_dir=tmp_path)
    assert EndpointCheck(settings).tokens_spent() is None
    limited = settings.model_copy(update={"caption_tokens_per_day": 100})
    assert EndpointCheck(limited).tokens_spent() == 0
    assert Budget(100, counter_of(limited)).reserve(60)
    assert EndpointCheck(limited).tokens_spent() == 60
    for path in (tmp_path / "tokens").iterdir():
        path.write_text("?")
    with pytest.raises(Unavailable):
        EndpointCheck(limited).tokens_spent()
