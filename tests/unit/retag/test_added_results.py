"""Outcomes with results of kinds that packages add, under today's roles."""

from pathlib import Path
from typing import Any

import pytest

from schemas.dead_letter import Failure
from schemas.enriched_image import EnrichedImage, read_output
from tagstream_testing.memory import ManualClock
from tests.support.kinds import BrightnessKind, given_kinds
from tests.unit.retag.retagging import Retagging
from tests.unit.retag.stored import bundle, outcome, today
from workers.assembly import retagging
from workers.errors import Misconfigured
from workers.pipeline.published import StoredOutcome
from workers.retag.current import CurrentSettings, differences
from workers.retag.remake import SAME, NeedsImage, New, Remade, Remaker, Stays
from workers.settings import Settings
from workers.types import Coordinates

SCORES = {"red": 0.9, "green": 0.6, "blue": 0.4}
ONE, OTHER = "d" * 64, "e" * 64
WANT = ("tags", "caption", "brightness")


def remade(settings: CurrentSettings, made: Any) -> Remade:
    return Remaker(settings, None, ManualClock()).remake(StoredOutcome(*made))


def made(folder: Path, **more: Any) -> Any:
    """An outcome that wants the added result, and has it."""
    fields = {"want": WANT, "brightness": 0.25, **more}
    return outcome(today(folder / "then", brightness=ONE), SCORES, **fields)


def lacking(folder: Path) -> Any:
    """The outcome of a worker without the role."""
    failure = Failure(index=0, stage="annotate", reason="role-not-here", detail="none", want="brightness")
    return outcome(today(folder / "then"), SCORES, want=WANT, failures=[failure])


def test_the_result_of_an_unchanged_model_goes_over_into_the_new_event(tmp_path: Path) -> None:
    document, headers = made(tmp_path)
    document["results"]["brightness"]["model"]["precision"] = "bf16"
    new = remade(today(tmp_path, brightness=ONE, thresholds=0.3), (document, headers))
    assert isinstance(new, New)
    assert new.changes == ("tags", "caption")
    event = read_output(new.document(Coordinates("images.enriched", 0, 7, 0), document["version"] + 1).value)
    assert isinstance(event, EnrichedImage)
    assert event.results is not None
    assert event.results["brightness"].value["mean"] == 0.25
    assert event.results["brightness"].model.model_dump() == document["results"]["brightness"]["model"]
    assert event.results["brightness"].cache is None
    assert event.options is not None
    assert (event.options.want, event.options.results) == (("tags", "caption"), ("brightness",))


def test_an_outcome_with_todays_result_is_unchanged(tmp_path: Path) -> None:
    assert remade(today(tmp_path, brightness=ONE), made(tmp_path)) is SAME


def test_a_result_of_another_model_needs_the_image_with_all_wishes(tmp_path: Path) -> None:
    needs = remade(today(tmp_path, brightness=OTHER), made(tmp_path))
    assert isinstance(needs, NeedsImage)
    assert (needs.reason, needs.options.want) == ("results", WANT)


def test_a_damaged_result_needs_the_image_once_the_event_changes(tmp_path: Path) -> None:
    document, headers = made(tmp_path)
    document["results"]["brightness"]["value"] = {"mean": "high"}
    needs = remade(today(tmp_path, brightness=ONE, thresholds=0.3), (document, headers))
    assert isinstance(needs, NeedsImage)
    assert needs.reason == "results"


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("dialect", ["own", "s3"])
def test_a_wish_for_a_role_that_is_not_here_lets_the_outcome_stay(tmp_path: Path, complete: bool, dialect: str) -> None:
    found = made(tmp_path, dialect=dialect) if complete else lacking(tmp_path)
    assert remade(today(tmp_path, thresholds=0.3), found) == Stays("role-not-here")


def test_an_outcome_that_lacked_a_role_needs_the_image_where_the_role_is(tmp_path: Path) -> None:
    needs = remade(today(tmp_path, brightness=ONE), lacking(tmp_path))
    assert isinstance(needs, NeedsImage)
    assert (needs.reason, needs.options.want) == ("partial", WANT)


def test_events_that_can_not_say_what_they_want_get_what_the_setting_names(tmp_path: Path) -> None:
    plain = outcome(today(tmp_path / "then"), SCORES, dialect="s3")
    needs = remade(today(tmp_path, brightness=ONE, want=WANT), plain)
    assert isinstance(needs, NeedsImage)
    assert (needs.reason, needs.options.want) == ("results", WANT)
    assert remade(today(tmp_path, brightness=ONE), plain) is SAME
    new = remade(today(tmp_path, brightness=ONE), made(tmp_path, dialect="s3"))
    assert isinstance(new, New)
    assert new.changes == ("results",)
    event = read_output(new.document(Coordinates("images.enriched", 0, 7, 0), 1_700_000_000_000_001).value)
    assert isinstance(event, EnrichedImage)
    assert event.results is None


def test_an_event_that_wants_an_added_result_alone_depends_on_no_other_model(tmp_path: Path) -> None:
    alone = made(tmp_path, want=("brightness",))
    assert remade(today(tmp_path, brightness=ONE, digest="b" * 64), alone) is SAME


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("options", "results"), "brightness"),
        (("options", "results"), {"brightness": 1}),
        (("options", "results"), ["Sharp"]),
        (("options", "results"), [f"a{'b' * number}" for number in range(20)]),
        (("results",), ["brightness"]),
        (("results", "brightness"), 1),
        (("results", "brightness", "model"), "one"),
        (("results", "brightness", "model"), {}),
    ],
)
def test_results_of_another_shape_are_no_outcome(tmp_path: Path, path: tuple[str, ...], value: Any) -> None:
    document, headers = made(tmp_path)
    place = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=r"."):
        remade(today(tmp_path, brightness=ONE, thresholds=0.3), (document, headers))


def test_a_plan_names_the_roles_models(tmp_path: Path) -> None:
    then, now = (today(tmp_path, brightness=digest).parts for digest in (None, ONE))
    assert differences(then, now) == [f"role brightness was none and is {ONE[:12]}"]


def test_a_plan_reads_the_bundles_of_the_added_roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"tiny": bundle(tmp_path / "tagger"), "bright": bundle(tmp_path / "role", ONE, kind="test-brightness")}
    monkeypatch.setattr(retagging, "opened", named.__getitem__)
    settings = Settings(tagger="tiny", roles={"brightness": "bright"}, want=("tags", "brightness"))
    with given_kinds(BrightnessKind):
        current = retagging.current_settings(settings)
        with pytest.raises(Misconfigured, match="needs one of the kind 'test-brightness'"):
            retagging.current_settings(settings.model_copy(update={"roles": {"brightness": "tiny"}}))
    assert (current.parts["role brightness"], current.want) == (ONE, ("tags", "brightness"))
    assert current.roles().models[-1].name == "brightness"


def test_a_plan_asks_for_images_and_takes_results_over(tmp_path: Path) -> None:
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
