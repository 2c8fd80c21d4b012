"""Labels that were added to a network's own."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.models.small import small_bundle
from tests.unit.models.small_dual import SIZES, labelled, small_dual
from workers.errors import Misconfigured
from workers.models.added import BIAS, WEIGHT, AddedLayer, rooted
from workers.models.bundle import Bundle
from workers.models.compact import compact_bundle
from workers.models.load import load_tagger
from workers.models.tagger import TorchTagger, golden_answers, sample_image

pytestmark = pytest.mark.slow

NEW = ("one", "two")


def added(bundle: Bundle, out: Path, ids: Sequence[int] = (), width: int | None = None, **more: Any) -> Bundle:
    """The bundle with `NEW` behind its labels; the added layer answers them, or these ids."""
    own, width = len(bundle.labels), width or _width(bundle)
    ids = ids or (own, own + 1)
    generator = torch.Generator().manual_seed(1)
    rows = {
        WEIGHT: torch.randn(len(ids), width, generator=generator) / width**0.5,
        BIAS: torch.linspace(-1, 1, len(ids)),
    }
    options = {**bundle.manifest.options, "added": list(ids), "own": own, **more}
    manifest = bundle.manifest.model_copy(update={"options": options, "thresholds": 0.5, "profiles": {}})
    beside = {name: partial(copyfile, bundle.beside(name)) for name in manifest.provenance.beside}
    return Bundle.write(out, manifest, weights=bundle.weights() | rows, labels=(*bundle.labels, *NEW), beside=beside)


@pytest.fixture(params=["ram", "ram_plus", "compact", "siglip", "clip"])
def before(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    if request.param == "compact":
        return compact_bundle(tmp_path)
    if request.param in ("siglip", "clip"):
        return labelled(small_dual(request.param, tmp_path / "plain"), tmp_path / "before")
    return small_bundle(request.param, tmp_path / "before")


def _width(bundle: Bundle) -> int:
    kind = bundle.manifest.kind
    if kind == "efficientnet_lite0":
        return 1280
    if kind in ("siglip", "clip"):
        return {str(name): size.dimensions for name, size in SIZES.items()}[kind]
    return 2 * int(str(bundle.manifest.architecture["embedding"]))


def _scores(bundle: Bundle, allow: Sequence[str] | None = None) -> dict[str, float]:
    tagger = load_tagger(bundle.folder, device="cpu", precision="fp32", allow=allow)
    assert isinstance(tagger, TorchTagger)
    tagger.floor = 0.0
    (raw,) = tagger.forward([sample_image(bundle.transform.size)])
    found = tagger.postprocess(raw)
    return {tagger.labels[i]: score for i, score in zip(found.label_ids.tolist(), found.scores.tolist(), strict=True)}


def test_old_scores_stay_to_the_bit_and_new_ones_come_behind(before: Bundle, tmp_path: Path) -> None:
    after = added(before, tmp_path / "after")
    old, new = _scores(before), _scores(after)
    assert {name: new[name] for name in old} == old
    assert set(new) - set(old) == set(NEW)
    assert all(0 < new[name] < 1 for name in NEW)


def test_an_added_answer_takes_the_place_of_the_networks_own(before: Bundle, tmp_path: Path) -> None:
    own = len(before.labels)
    after = added(before, tmp_path / "after", [3, own, own + 1])
    old, new = _scores(before), _scores(after)
    third = before.labels[3]
    assert new[third] != old[third]
    assert {name: new[name] for name in old if name != third} == {n: s for n, s in old.items() if n != third}


def test_some_labels_score_as_among_all(before: Bundle, tmp_path: Path) -> None:
    own = len(before.labels)
    after = added(before, tmp_path / "after", [3, own, own + 1])
    wanted = [before.labels[1], before.labels[3], "two"]
    every, some = _scores(after), _scores(after, wanted)
    assert some == pytest.approx({name: every[name] for name in wanted}, rel=1e-5)


def test_golden_answers_warm_up_a_part_of_the_labels(before: Bundle, tmp_path: Path) -> None:
    made = added(before, tmp_path / "made")
    whole = load_tagger(made.folder, device="cpu", precision="fp32")
    assert isinstance(whole, TorchTagger)
    golden = golden_answers(whole)
    beside = {name: partial(copyfile, made.beside(name)) for name in made.manifest.provenance.beside}
    parts: dict[str, Any] = {"weights": made.weights(), "labels": made.labels, "beside": beside}
    Bundle.write(tmp_path / "golden", made.manifest, golden=lambda _: golden, **parts)
    part = load_tagger(tmp_path / "golden", device="cpu", precision="fp32", allow=["two", before.labels[0]])
    part.warm_up()


@pytest.mark.parametrize("ids", [[0], [61, 60], [60, 60, 61], [60, 62], ["60", 61]])
def test_ids_that_can_not_be_are_a_sentence(tmp_path: Path, ids: list[int]) -> None:
    made = added(small_bundle("ram", tmp_path / "before"), tmp_path / "after", ids, 32)
    with pytest.raises(Misconfigured, match="don't fit its 62 labels"):
        load_tagger(made.folder, device="cpu", precision="fp32")


def test_a_rooted_label_reads_the_roots_of_features_and_others_read_features(before: Bundle, tmp_path: Path) -> None:
    plain = added(before, tmp_path / "unrooted")
    after = added(before, tmp_path / "after", rooted=[len(before.labels) + 1])
    old, new = _scores(plain), _scores(after)
    assert {name: new[name] for name in old if name != "two"} == {n: s for n, s in old.items() if n != "two"}
    tagger = load_tagger(after.folder, device="cpu", precision="fp32")
    assert isinstance(tagger, TorchTagger)
    features = torch.from_numpy(np.stack(tagger.features([sample_image(after.transform.size)])))
    weights = after.weights()
    logit = rooted(features) @ weights[WEIGHT][1] + weights[BIAS][1]
    assert new["two"] == pytest.approx(float(logit.sigmoid()), rel=1e-4)
    assert _scores(after, ["two"])["two"] == pytest.approx(new["two"], rel=1e-5)


def test_roots_are_signed_of_length_1_and_can_be_learnt_through() -> None:
    features = torch.tensor([[4.0, -9.0, 0.0]], requires_grad=True)
    roots = rooted(features)
    assert roots.tolist()[0] == pytest.approx([2 / 13**0.5, -3 / 13**0.5, 0], rel=1e-5)
    layer = AddedLayer(torch.ones(2, 3), torch.zeros(2), [True, False])
    layer(features).sum().backward()
    assert features.grad is not None
    assert bool(torch.isfinite(features.grad).all())


@pytest.mark.parametrize("rooted", [[3], ["61"], [True], 61, [None], [[61]]])
def test_rooted_labels_that_were_not_added_are_a_sentence(tmp_path: Path, rooted: Any) -> None:
    made = added(small_bundle("ram", tmp_path / "before"), tmp_path / "after", [60, 61], 32, rooted=rooted)
    with pytest.raises(Misconfigured, match="`rooted` names labels"):
        load_tagger(made.folder, device="cpu", precision="fp32")


def test_a_layer_of_other_labels_is_a_sentence(tmp_path: Path) -> None:
    made = added(small_bundle("ram", tmp_path / "before"), tmp_path / "after", [60, 61], 64)
    rows = {name: rows[:1] for name, rows in made.weights().items() if name in (WEIGHT, BIAS)}
    less = Bundle.write(tmp_path / "less", made.manifest, weights=made.weights() | rows, labels=made.labels)
    with pytest.raises(Misconfigured, match=r"no added\.weight and added\.bias for 2 added labels"):
        load_tagger(less.folder, device="cpu", precision="fp32")


def test_taggers_score_in_fp32_as_the_layer_does(tmp_path: Path) -> None:
    before = compact_bundle(tmp_path)
    after = added(before, tmp_path / "after", [1000, 1001], 1280)
    tagger = load_tagger(after.folder, device="cpu", precision="fp32")
    assert isinstance(tagger, TorchTagger)
    (raw,) = tagger.forward([sample_image(224)])
    assert raw.shape == (1002,)
    assert _scores(after)["two"] == pytest.approx(1 / (1 + np.exp(-raw[1001])), rel=1e-5)
