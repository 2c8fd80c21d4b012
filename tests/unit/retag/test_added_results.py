"""Outcomes with results of kinds that packages add, under today's roles."""

from pathlib import Path
from typing import Any

import pytest

from schemas.dead_letter import Failure
from tests.support.kinds import BrightnessKind, given_kinds
from tests.unit.retag.retagging import Retagging
from tests.unit.retag.stored import bundle, outcome, today
from tests.unit.retag.test_remake import new_event, remade
from workers.assembly import retagging
from workers.errors import Misconfigured
from workers.retag.current import differences
from workers.retag.remake import SAME, NeedsImage, New, Stays
from workers.settings import Settings

SCORES = {"red": 0.9, "green": 0.4}
ONE, OTHER = "d" * 64, "e" * 64
WANT = ("tags", "caption", "brightness")


def made(folder: Path, **more: Any) -> Any:
    """An outcome that wants the added result, and has it."""
    return outcome(today(folder / "then", brightness=ONE), SCORES, **{"want": WANT, "brightness": 0.25, **more})


def lacking(folder: Path) -> Any:
    """The outcome of a worker without the role."""
    failure = Failure(index=0, stage="annotate", reason="role-not-here", detail="none", want="brightness")
    return outcome(today(folder / "then"), SCORES, want=WANT, failures=[failure])


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("dialect", ["own", "s3"])
def test_a_wish_for_a_role_that_is_not_here_lets_the_outcome_stay(tmp_path: Path, complete: bool, dialect: str) -> None:
    found = made(tmp_path, dialect=dialect) if complete else lacking(tmp_path)
    assert remade(today(tmp_path, thresholds=0.3), found) == Stays("role-not-here")


def test_a_result_that_is_missing_or_of_another_model_needs_the_image(tmp_path: Path) -> None:
    cases = {"partial": (ONE, lacking(tmp_path)), "results": (OTHER, made(tmp_path))}
    for reason, (digest, found) in cases.items():
        needs = remade(today(tmp_path, brightness=digest), found)
        assert isinstance(needs, NeedsImage)
        assert (needs.reason, needs.options.want) == (reason, WANT)


def test_events_that_can_not_say_what_they_want_get_what_the_setting_names(tmp_path: Path) -> None:
    plain = outcome(today(tmp_path / "then"), SCORES, dialect="s3")
    needs = remade(today(tmp_path, brightness=ONE, want=WANT), plain)
    assert isinstance(needs, NeedsImage)
    assert (needs.reason, needs.options.want) == ("results", WANT)
    now, whole = today(tmp_path, brightness=ONE), made(tmp_path, dialect="s3")
    assert remade(now, plain) is SAME
    new = remade(now, whole)
    assert isinstance(new, New)
    assert (new.changes, new_event(now, whole).results) == (("results",), None)


def test_an_event_that_wants_an_added_result_alone_depends_on_no_other_model(tmp_path: Path) -> None:
    alone = made(tmp_path, want=("brightness",))
    assert remade(today(tmp_path, brightness=ONE, digest="b" * 64), alone) is SAME


@pytest.mark.parametrize("wishes", ["brightness", {"brightness": 1}, [f"a{'b' * number}" for number in range(20)]])
@pytest.mark.parametrize("results", [["brightness"], {"brightness": 1}, {"brightness": {"model": {}}}])
def test_results_of_another_shape_are_no_outcome(tmp_path: Path, wishes: Any, results: Any) -> None:
    now, (document, headers) = today(tmp_path, brightness=ONE, thresholds=0.3), made(tmp_path)
    wrong = document | {"options": document["options"] | {"results": wishes}}, document | {"results": results}
    for each in wrong:
        with pytest.raises(ValueError, match=r"."):
            remade(now, (each, headers))


def test_a_plan_reads_the_bundles_of_the_added_roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"tiny": bundle(tmp_path / "tagger"), "bright": bundle(tmp_path / "role", ONE, kind="test-brightness")}
    monkeypatch.setattr(retagging, "opened", named.__getitem__)
    settings = Settings(tagger="tiny", roles={"brightness": "bright"}, want=("tags", "brightness"))
    with given_kinds(BrightnessKind):
        current = retagging.current_settings(settings)
        with pytest.raises(Misconfigured, match="needs one of the kind 'test-brightness'"):
            retagging.current_settings(settings.model_copy(update={"roles": {"brightness": "tiny"}}))
    assert current.want == ("tags", "brightness")
    assert current.roles().models[-1].name == "brightness"
    assert f"role brightness was none and is {ONE[:12]}" in differences(today(tmp_path).parts, current.parts)


def test_a_plan_asks_for_images_of_other_models_and_takes_results_over(tmp_path: Path) -> None:
    scene = Retagging(tmp_path)
    scene.then = today(tmp_path / "then", brightness=ONE)
    scene.now = today(tmp_path, brightness=ONE, thresholds=0.3)
    scene.outcome("kept.png", want=WANT, brightness=0.5)
    scene.outcome("renewed.png", by=today(tmp_path / "older", brightness=OTHER), want=WANT, brightness=0.5)
    report = scene.go()
    assert (report.rescored, report.images) == (1, 1)
    assert scene.newest("kept.png")["results"]["brightness"]["value"]["mean"] == 0.5
    assert scene.tags("kept.png") == ["red", "green"]
    (event,) = scene.events()
    assert (event["key"], event["options"]["want"]) == ("renewed.png", [*WANT])
