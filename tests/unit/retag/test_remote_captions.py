"""Captions of a service, under today's settings: kept, or left to a worker. Retag asks no service."""

from pathlib import Path
from typing import Any

import pytest

from schemas.dead_letter import Failure, Reason
from tests.support.kinds import given_kinds
from tests.support.remote import AnyFields, Counted, PlayedCaptioner, an_answer
from tests.unit.retag.retagging import Retagging
from tests.unit.retag.stored import bundle, outcome, today
from tests.unit.retag.test_remake import SCORES, changes, need, new_event, remade
from workers.assembly import retagging
from workers.retag.remake import SAME
from workers.settings import Settings

FIELDS = {"people": 2, "place": "a beach"}


def unguided(digest: str = "9" * 64, **more: Any) -> PlayedCaptioner:
    service = PlayedCaptioner(guided=False, **more)
    service.digest = digest
    return service


def made(folder: Path, service: PlayedCaptioner, **more: Any) -> Any:
    return outcome(today(folder / "then", service=service), SCORES, **{"answer": an_answer(), **more})


def test_a_services_caption_of_today_is_unchanged_though_its_outcome_was_paid_for(tmp_path: Path) -> None:
    document, headers = made(tmp_path, PlayedCaptioner())
    assert document["caption"]["usage"] == {"prompt": 72, "completion": 9}
    assert remade(today(tmp_path, service=PlayedCaptioner()), (document, headers)) is SAME
    assert changes(today(tmp_path, service=PlayedCaptioner(), parents=True), (document, headers)) == ("tags",)


def test_a_services_caption_is_kept_under_new_tags_and_costs_nothing_again(tmp_path: Path) -> None:
    service = unguided()
    event = new_event(today(tmp_path, service=service, thresholds=0.3), made(tmp_path, service))
    assert [tag.name for tag in event.tags] == ["red", "green", "blue"]
    assert event.caption is not None
    assert (event.caption.text, event.caption.method, event.caption.model) == ("a dog", "remote", "vlm@main")
    assert event.caption.usage is None
    assert service.asked == []


def test_another_model_prompt_or_guide_needs_the_image(tmp_path: Path) -> None:
    guided, other = PlayedCaptioner(), unguided("8" * 64)
    assert need(today(tmp_path, service=guided, thresholds=0.3), made(tmp_path, guided)) == "guide"
    assert need(today(tmp_path, service=other), made(tmp_path, unguided())) == "captioner"
    assert guided.asked == other.asked == []


def test_fields_of_the_same_answer_are_kept_and_others_need_the_image(tmp_path: Path) -> None:
    answer = an_answer(fields=FIELDS)
    found = made(tmp_path, unguided(fields=Counted), answer=answer, want=("tags", "caption", "fields"))
    event = new_event(today(tmp_path, service=unguided(fields=Counted), thresholds=0.3), found)
    assert event.results is not None
    assert event.results["fields"].value == FIELDS
    alone = made(tmp_path, unguided(fields=Counted), answer=answer, want=("tags", "fields"))
    assert need(today(tmp_path, service=unguided("8" * 64, fields=Counted)), alone) == "results"


def test_a_plan_reads_the_digest_of_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service, address = unguided(fields=Counted), "http://127.0.0.1:9/v1"
    monkeypatch.setattr(retagging, "opened", {"tiny": bundle(tmp_path)}.__getitem__)
    monkeypatch.setattr(retagging, "remote_captioner", lambda settings: service if settings.captioner_address else None)
    settings = Settings(tagger="tiny", captioner=address, caption_model="vlm", caption_wait_s=1)
    with given_kinds(AnyFields):
        current = retagging.current_settings(settings)
    assert (current.parts["captioner"], current.template) == (service.digest, None)
    assert [role.name for role in current.roles().waiting] == ["caption", "fields"]
    assert retagging.current_settings(Settings(tagger="tiny")).parts["captioner"] == "template"
    assert service.asked == []


def test_a_plan_asks_for_the_images_without_a_caption_and_keeps_all_others(tmp_path: Path) -> None:
    scene, service = Retagging(tmp_path), unguided()
    scene.then = today(tmp_path / "then", service=service)
    scene.now = today(tmp_path, service=service, thresholds=0.3)
    reasons: tuple[Reason, ...] = ("caption-unavailable", "caption-budget")
    for reason in reasons:
        missing = [Failure(index=0, stage="caption", reason=reason, detail="", want="caption")]
        scene.outcome(f"{reason}.png", failures=missing)
    scene.outcome("kept.png", answer=an_answer())
    report = scene.go()
    assert (report.rescored, report.images) == (1, 2)
    assert scene.tags("kept.png") == ["red", "green"]
    assert scene.newest("kept.png")["caption"]["text"] == "a dog"
    assert [event["key"] for event in scene.events()] == [f"{reason}.png" for reason in reasons]
    assert service.asked == []
