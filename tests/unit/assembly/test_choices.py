"""The file of choices: what people accepted of a plan."""

import threading
from pathlib import Path

import pytest

from tests.support.command import Tagstream
from workers.assembly import choices
from workers.assembly.choices import Choices, choose
from workers.errors import Misconfigured
from workers.retag.plan_file import PlanHead, Planned, write_plan

PLAN = "a" * 64


def test_verdicts_are_added_and_the_last_one_of_an_image_counts(tmp_path: Path) -> None:
    path = tmp_path / "choices"
    assert choose(path, PLAN, {}).verdicts == {}
    assert not path.exists(), "without a verdict there is no file"
    choose(path, PLAN, {"photos/a\u2028\x1b.jpg": "accepted", "photos/b.jpg": "accepted"})
    assert choose(path, PLAN, {"photos/b.jpg": "rejected"}) == Choices.read(path, PLAN)
    assert Choices.read(path, PLAN).verdicts == {"photos/a\u2028\x1b.jpg": "accepted", "photos/b.jpg": "rejected"}
    path.write_bytes(path.read_bytes() + b'\n{"subject":"photos/c.jpg","verdict":"rejected"}\n')
    assert Choices.read(path, PLAN).verdicts["photos/c.jpg"] == "rejected"


def test_no_verdict_is_lost_to_another_one_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "choices"
    threads = [threading.Thread(target=choose, args=(path, PLAN, {f"photos/{n}": "accepted"})) for n in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(Choices.read(path, PLAN).verdicts) == 8


def test_another_plans_choices_and_damage_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(path := tmp_path / "choices", PLAN, {"photos/a": "accepted"})
    with pytest.raises(Misconfigured, match="another plan"):
        Choices.read(path, "b" * 64)
    with pytest.raises(Misconfigured, match="another plan"):
        choose(path, "b" * 64, {"photos/b": "accepted"})
    head, line = path.read_bytes().splitlines()
    for content, says in (
        ([b""], "no file of choices"),
        ([b'{"schema":"tagstream-changes/1"}'], "no file of choices"),
        ([head, line.replace(b"accepted", b"yes")], "line 2"),
        ([head, line, b"[" * 100_000], "line 3"),
    ):
        path.write_bytes(b"\n".join(content))
        with pytest.raises(Misconfigured, match=says) as refused:
            Choices.read(path, PLAN)
        assert str(refused.value).isprintable()
    with pytest.raises(Misconfigured, match="can't be read"):
        Choices.read(tmp_path, PLAN)
    monkeypatch.setattr(choices, "MOST", 2)
    path.unlink()
    choose(path, PLAN, {"photos/a": "accepted", "photos/b": "accepted"})
    with pytest.raises(Misconfigured, match="2 choices"):
        choose(path, PLAN, {"photos/c": "accepted"})
    assert len(Choices.read(path, PLAN).verdicts) == 2


def test_the_precision_has_wilsons_interval() -> None:
    said = Choices(PLAN, {str(n): "accepted" if n < 45 else "rejected" for n in range(50)})
    assert said.document(60) == {
        "accepted": 45,
        "rejected": 5,
        "undecided": 10,
        "precision": {"share": 0.9, "low": pytest.approx(0.7864, abs=1e-4), "high": pytest.approx(0.9565, abs=1e-4)}
        | {"judged": 50, "drawn": 50},
    }
    assert len(list(said.lines(60))) == 2
    assert Choices(PLAN, {}).document(3)["precision"] is None


def test_a_dry_run_says_the_numbers_and_asks_no_server(tmp_path: Path, tagstream: Tagstream) -> None:
    head = PlanHead(made_at="now", topic="t", topic_id="", ends={0: 9}, settings={}, counts={}, lines=6)
    planned = [Planned(0, n, f"photos/{n}", 1, "rescore" if n < 5 else "image", "tags", 10) for n in range(6)]
    digest = write_plan(tmp_path / "plan", head, planned)
    path = tmp_path / "choices"
    choose(path, digest, {**dict.fromkeys(("photos/0", "photos/1", "photos/5"), "accepted"), "photos/2": "rejected"})
    told = tagstream("retag", "go", tmp_path / "plan", "--only", path, "--dry-run", KAFKA_SERVERS="127.0.0.1:1")
    assert "2 accepted, 1 rejected, 3 undecided" in told.notes
    assert "66.7%" in told.err
    assert "2 planned records" in told.out
