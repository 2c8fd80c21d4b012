"""Reviews on a real PostgreSQL and a real Kafka: the draw, verdicts on the page, corrections."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from index.tests.support import Said, photo, retraction, written
from index.tests.world import World
from schemas.correction import read_correction
from schemas.stored_scores import StoredScores
from tagstream_index.database import Connection
from tagstream_index.review import Drawn, draw
from tests.support.command import Tagstream
from workers.backends.kafka import ensure_topics, tail
from workers.errors import Misconfigured

pytestmark = pytest.mark.servers

DIGEST = "c" * 64
TAGGER = {"name": "compact", "digest": DIGEST, "precision": "fp32", "random_weights": False}
LABEL = 151


def stored(score: float, label: int = LABEL, tagger: str = DIGEST) -> bytes:
    return StoredScores(tagger, None, "fp32", 0.01, ((label, score),)).encode()


def dog(key: str, score: float, **others: Any) -> Said:
    """A picture that shows the tag."""
    said = photo(key, **others)
    return said.but(tags=[{"name": "dog", "score": score, "label_id": LABEL}], models=models())


def models(digest: str = DIGEST) -> dict[str, Any]:
    return {"tagger": {**TAGGER, "digest": digest}, "captioner": None}


def below(key: str, score: float, **others: Any) -> Said:
    return photo(key, "cat", scores=stored(score, **others)).but(models=models())


def keys(drawn: Sequence[Drawn], *, shows: bool = True) -> set[str]:
    return {each.key for each in drawn if each.shows == shows}


def test_the_draw_has_pictures_near_above_and_just_below_with_the_chance_of_each(tables: Connection) -> None:
    written(tables, *(dog(f"{n:03}", 0.4 + n / 1_000) for n in range(400)))
    written(tables, *(below(f"below-{n}", 0.39 - n / 1_000) for n in range(40)), below("far", 0.05))
    written(tables, below("other-label", 0.3, label=LABEL + 1), below("other-model", 0.3, tagger="d" * 64))
    found, lacking = draw(tables, "dog", 50)
    assert (found.head.shown, found.head.lines, lacking) == (400, 50, "")
    shown = [each for each in found.drawn if each.shows]
    assert sum(each.score < 0.5 for each in shown) == 20, "half of them are of the quarter nearest to the threshold"
    assert sum(1 / each.chance for each in shown) == pytest.approx(400)
    just = [each for each in found.drawn if not each.shows]
    assert {each.key.partition("-")[0] for each in just} == {"below"}
    assert [each.chance for each in just] == [0.25] * 10
    assert all(abs(each.score - 0.39 + int(each.key.partition("-")[2]) / 1_000) < 1e-5 for each in just)
    assert {(each.bucket, each.sha256, each.model) for each in found.drawn} == {("photos", "b" * 64, DIGEST)}


def test_what_a_person_said_or_removed_is_not_drawn_and_a_small_label_is_drawn_whole(tables: Connection) -> None:
    person = {"name": "dog", "score": 1.0, "label_id": None, "source": "person"}
    removed = {"added": [], "removed": ["dog"]}
    written(
        tables,
        *(dog(f"{n}", 0.4 + n / 100) for n in range(7)),
        photo("by-person").but(tags=[person], corrections={"added": ["dog"], "removed": []}, models=models()),
        below("judged", 0.35).but(corrections=removed),
        dog("gone", 0.5),
        dog("future", 0.5).but(source={**photo("future").fields["source"], "last_modified": "9999-12-31T23:59:59Z"}),
    )
    written(tables, retraction("gone", 2))
    found, lacking = draw(tables, "dog", 50)
    assert keys(found.drawn) - {"future"} == {f"{n}" for n in range(7)}
    assert {each.chance for each in found.drawn} == {1.0}
    assert "TAGSTREAM_KEEP_SCORES" in lacking, "no scores are stored, and it says so"


def test_a_tag_that_no_picture_shows_or_that_no_correction_can_name_is_refused(tables: Connection) -> None:
    long = "d" * 101
    written(tables, dog("a", 0.5), photo("b", long))
    for label in ("cat", "\0", "'; drop table image; --"):
        with pytest.raises(Misconfigured, match="no picture of the index shows"):
            draw(tables, label, 50)
    with pytest.raises(Misconfigured, match="can't be reviewed: label"):
        draw(tables, long, 50)


@pytest.mark.parametrize(
    ("header", "label_id", "digest"),
    [
        (stored(0.3)[:-3], LABEL, DIGEST),
        (stored(0.3) + b"\0" * 5, LABEL, DIGEST),
        (stored(0.3)[:-4] + b"\xff\xff\xff\xff", LABEL, DIGEST),  # not a number
        (b"\x02" + stored(0.3)[1:], LABEL, DIGEST),
        (stored(0.3), 2**40, DIGEST),
        (stored(0.3), LABEL, "no digest"),
    ],
)
def test_hostile_scores_and_models_leave_the_pictures_that_show_the_tag(
    tables: Connection, header: bytes, label_id: int, digest: str
) -> None:
    shows = {"name": "dog", "score": 0.5, "label_id": label_id}
    written(tables, photo("a").but(tags=[shows], models=models(digest)), photo("b", "cat", scores=header))
    found, lacking = draw(tables, "dog", 50)
    assert [each.key for each in found.drawn] == ["a"]
    assert lacking


def test_the_command_draws_tells_and_sends_corrections_only_with_go(world: World) -> None:
    written(world.tables, *(dog(f"{n}", 0.5 + n / 100) for n in range(10)))
    path, corrections = world.folder / "review.jsonl", f"{world.topic}-corrections"
    ensure_topics(world.kafka.servers, {corrections: (1, {})})
    done = world.command("review", "dog", "-o", str(path))
    assert ("10 pictures of 10" in done.done, "KEEP_SCORES" in done.err) == (True, True)
    assert "may have verdicts" in world.command("review", "cat", "-o", str(path)).fails()
    path.write_bytes(path.read_bytes().replace(b'"verdict":null', b'"verdict":"accepted"'))
    path.write_bytes(path.read_bytes().replace(b"accepted", b"rejected", 1))
    told = world.command("review", "--result", str(path)).out
    assert "precision 90.0%" in told
    assert "1 correction would be sent" in told
    topic = {"TAGSTREAM_CORRECTIONS_TOPIC": corrections}
    assert "TAGSTREAM_CORRECTIONS_TOPIC" in world.command("review", "--result", str(path), "--go").fails()
    sent = world.tagstream("index", "review", "--result", str(path), "--accepted", "--go", "--json", **topic)
    assert sent.json["corrections"] == 10
    with tail(world.kafka.servers, [corrections], start="beginning") as reading:
        found = [read_correction(record.value or b"") for _ in range(10) for record in reading.poll(0.3)]
    assert sorted(len(each.removed) for each in found) == [0] * 9 + [1]


def test_without_one_of_label_and_result_it_is_a_sentence(tagstream: Tagstream, tmp_path: Path) -> None:
    for words in ([], ["dog", "--result", "x"], ["dog", "--go"]):
        assert "--result" in tagstream("index", "review", *words).fails()
    assert not re.search("Traceback", tagstream("index", "review", "--result", tmp_path / "none").fails())
