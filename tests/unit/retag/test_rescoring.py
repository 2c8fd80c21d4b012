"""New labels from stored vectors: scores as the tagger's, events as a worker's, in pieces of any size."""

from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from numpy.typing import NDArray

from schemas.enriched_image import EnrichedImage, read_output
from tagstream_testing.memory import ManualClock
from tests.unit.models.small_dual import SIZES, labelled, small_dual
from tests.unit.retag.stored import outcome
from workers.errors import Misconfigured
from workers.models.bundle import WEIGHTS, Bundle
from workers.models.calibration import Calibrated, Line
from workers.models.device import choose_device
from workers.models.dual import rescoring
from workers.models.dual.adapters import Scorer, build_tagger
from workers.models.dual.config import KINDS, vectors_digest
from workers.models.dual.rescoring import LabelHead, head_of
from workers.models.own_labels import with_calibration
from workers.models.template import TemplateCaptioner
from workers.pipeline.embedding import EmbeddingRole
from workers.pipeline.profiles import read_profiles
from workers.pipeline.published import StoredOutcome
from workers.retag import planning
from workers.retag.current import CurrentSettings, UnloadedModel
from workers.retag.planning import Newest, OutcomeChoice, Planning
from workers.retag.remake import SAME, NeedsImage, New, Remaker
from workers.types import Coordinates, ReadRecord

CPU = choose_device("cpu")
OLD, NEW = ("forklift", "pallet"), ("crane", "dog", "pallet")
WHERE = Coordinates("images.enriched", 0, 7, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rescoring")


@pytest.fixture(scope="module", params=KINDS)
def plain(request: pytest.FixtureRequest, folder: Path) -> Bundle:
    return small_dual(request.param, folder / request.param)


@pytest.fixture(scope="module")
def old(plain: Bundle, folder: Path) -> Bundle:
    return labelled(plain, folder / f"{plain.manifest.kind}-old", OLD)


@pytest.fixture(scope="module")
def new(plain: Bundle, folder: Path) -> Bundle:
    made = labelled(plain, folder / f"{plain.manifest.kind}-raw", NEW)
    found = {0: Calibrated(50, 50, "", Line(0.2, 1.5), 0.4), 2: Calibrated(50, 50, "", Line(0.05, 0.3), 0.3)}
    return with_calibration(made, folder / f"{plain.manifest.kind}-new", found)


def vectors(bundle: Bundle, count: int) -> NDArray[np.float16]:
    width = SIZES[bundle.manifest.kind].dimensions  # type: ignore[index]
    rows = np.random.default_rng(5).normal(size=(count, width))
    made: NDArray[np.float16] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    return made


def today(bundle: Bundle, **more: Any) -> CurrentSettings:
    tagger = UnloadedModel(bundle, **more)
    return CurrentSettings(tagger, None, TemplateCaptioner(), read_profiles(tagger, {}), ("tags", "caption"))


def published(bundle: Bundle, vector: NDArray[np.float16], key: str = "a.png", **options: Any) -> Any:
    """The outcome of an image with this vector, from a worker with these labels."""
    settings = today(bundle)
    assert settings.tagger is not None
    told = (settings.tagger.embedding_model, settings.tagger.embedding_space, vector.tobytes())
    return outcome(settings, {"forklift": 0.9}, key=key, embedding=told, **options)


def remade(settings: CurrentSettings, made: Any) -> Any:
    return Remaker(settings, None, ManualClock()).remake(StoredOutcome(*made))


@pytest.mark.parametrize("piece", [1, 7, 4096])
@pytest.mark.parametrize("ids", [None, (0, 2)])
def test_scores_are_the_taggers_in_pieces_of_any_size(
    new: Bundle, piece: int, ids: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescoring, "PIECE", piece)
    rows, tagger = vectors(new, 20), build_tagger(new, CPU, "fp32", ids)
    labels = {name: each for name, each in new.weights().items() if name.startswith("labels.")}
    logits = Scorer(SIZES[new.manifest.kind], labels, CPU)(torch.from_numpy(rows.astype(np.float32)))  # type: ignore[index]
    logits = logits if ids is None else logits[:, list(ids)]
    found = [
        (part.labels[begin:end], part.scores[begin:end])
        for part in LabelHead(new, ids).pieces(rows)
        for begin, end in zip(part.ends[:-1], part.ends[1:], strict=True)
    ]
    assert len(found) == 20
    for (at, scores), row in zip(found, logits.numpy(), strict=True):
        wanted = tagger.postprocess(np.concatenate((row, np.zeros(tagger.embedding_dimensions, np.float32))))
        assert at.tolist() == wanted.label_ids.tolist()
        np.testing.assert_allclose(scores, wanted.scores, atol=1e-5)


def test_a_damaged_bundle_and_other_kinds_score_no_vectors(old: Bundle, plain: Bundle, tmp_path: Path) -> None:
    assert head_of(plain) is None
    copy = labelled(plain, tmp_path / "copy", OLD)
    content = bytearray((copy.folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (copy.folder / WEIGHTS).write_bytes(content)
    with pytest.raises(Misconfigured, match="original file"):
        head_of(Bundle.open(copy.folder))


def test_vectors_name_the_tower_whatever_the_labels(plain: Bundle, old: Bundle, new: Bundle, tmp_path: Path) -> None:
    digests = {vectors_digest(each.manifest) for each in (plain, old, new)}
    assert len(digests) == 1
    assert None not in digests
    other = small_dual(plain.manifest.kind, tmp_path / "other", seed=1)  # type: ignore[arg-type]
    assert vectors_digest(other.manifest) not in digests
    tagger = build_tagger(old, CPU, "fp32")
    assert {tagger.embedding_model} == digests != {tagger.digest}
    assert EmbeddingRole(tagger)._model == tagger.embedding_model


def test_a_new_event_has_the_labels_of_today_from_the_vector_alone(old: Bundle, new: Bundle) -> None:
    settings, (row,) = today(new), vectors(new, 1)
    made = published(old, row)
    answer = remade(settings, made)
    assert isinstance(answer, New)
    document = answer.document(WHERE, made[0]["version"] + 1)
    event = read_output(document.value)
    assert isinstance(event, EnrichedImage)
    assert event.models.tagger is not None
    assert (event.models.tagger.digest, event.models.tagger.name) == (new.digest, new.name)
    assert event.models.tagger.precision == made[0]["models"]["tagger"]["precision"]
    (part,) = LabelHead(new).pieces(row[None])
    shown = {
        new.labels[i]: round(float(score), 6)
        for i, score in zip(part.labels, part.scores, strict=True)
        if score > new.thresholds[i]
    }
    assert {tag.name: tag.score for tag in event.tags} == shown
    assert shown
    assert "forklift" not in (event.caption.text if event.caption else "")
    again = orjson.loads(document.value), document.stored
    assert remade(settings, again) is SAME
    assert isinstance(remade(today(old), again), New)


def test_an_event_that_shows_its_vector_keeps_it(old: Bundle, new: Bundle) -> None:
    (row,) = vectors(new, 1)
    document, headers = published(old, row, want=("tags", "embedding"))
    space, model = today(old).tagger.embedding_space, vectors_digest(old.manifest)  # type: ignore[union-attr]
    shown = {"space": space, "dimensions": len(row), "dtype": "float16", "normalised": True, "model": model}
    document["embedding"] = {**shown, "data": b64encode(row.tobytes()).decode()}
    assert remade(today(new), (document, headers[:1])).parts["embedding"] == document["embedding"]


@pytest.mark.parametrize("case", ["no vector", "another tower", "too short", "no options"])
def test_an_image_without_a_vector_of_this_tower_is_needed(old: Bundle, new: Bundle, case: str) -> None:
    (row,) = vectors(new, 1)
    settings = today(old)
    assert settings.tagger is not None
    if case == "another tower":
        settings.tagger.embedding_model = "b" * 64
    told = (settings.tagger.embedding_model, settings.tagger.embedding_space, row.tobytes())
    if case == "too short":
        told = (*told[:2], np.array([1.0], "<f2").tobytes())
    document, headers = outcome(settings, {"forklift": 0.9}, embedding=None if case == "no vector" else told)
    if case == "no options":
        del document["options"]
    needs = remade(today(new), (document, headers))
    assert isinstance(needs, NeedsImage)
    assert needs.reason == "tagger"


def test_a_plan_is_the_same_in_pieces_and_one_by_one(old: Bundle, new: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    records = []
    for number, row in enumerate(vectors(new, 11)):
        document, headers = published(old, row, key=f"{number}.png")
        if number == 4:
            document["image"] = None  # no worker's
        value = orjson.dumps(document)
        records.append(ReadRecord("enriched", 0, number, 1000, document["subject"].encode(), value, headers))

    def plan(piece: int) -> tuple[Any, int]:
        monkeypatch.setattr(planning, "PIECE", piece)
        late = 0
        with Newest() as newest:
            told = Planning(Remaker(today(new), None, ManualClock()), newest, OutcomeChoice())
            for record in records:
                told.take(record)
            told.flush()
            late = len(told.late)
            found = newest.settle()
            return (found.counts, sorted(line.subject for line in newest.planned())), late

    assert plan(1) == plan(4) == plan(100)
    assert plan(4)[1] == 1
