"""Networks between two bundles: scores before training, and equal scores of a worker."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tagstream_train.data.loader import View
from tagstream_train.export import export
from tagstream_train.fit.encoder import Fitting
from tagstream_train.fit.linear import Linear
from tagstream_train.fit.measures import Labels
from tagstream_train.fit.network import Learner, Network, What, taught
from tagstream_train.fit.timm_bundle import make_bundle
from tests.support.kept import kept_compact
from tests.unit.models.small import small_bundle
from training.tests.unit.test_results import CARD
from workers.models.bundle import Bundle
from workers.models.load import load_tagger
from workers.models.tagger import sample_image
from workers.types import Pixels

pytestmark = pytest.mark.slow

NEW = ("one", "two", "three")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    import timm  # here, because it takes seconds to load

    folder = tmp_path_factory.mktemp("bundles")
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), folder / "resnet.safetensors")
    return {
        "ram": small_bundle("ram", folder / "ram"),
        "ram_plus": small_bundle("ram_plus", folder / "ram_plus"),
        "compact": kept_compact(folder / "cache"),
        "timm": make_bundle("test_resnet", folder / "timm", folder / "resnet.safetensors"),
    }


WIDTHS = {"ram": 2 * 512, "ram_plus": 2 * 512, "efficientnet_lite0": 1280, "timm": 96}


def _network(bundle: Bundle, new: Sequence[str] = NEW, drop_labels: bool = False, rooted: bool = False) -> Network:
    chance = torch.Generator().manual_seed(1)
    weight = torch.randn(len(new), WIDTHS[bundle.manifest.kind], generator=chance) / 30
    old = () if drop_labels else bundle.labels
    names = (*old, *(name for name in new if name not in old))
    ids = sorted(names.index(name) for name in new)
    linear = Linear(weight, torch.zeros(len(new)), torch.ones(len(new)), torch.zeros(1, len(new)), rooted)
    return taught(bundle, names, ids, linear, alone=drop_labels)


def _learner(bundle: Bundle, what: What = "all", drop_labels: bool = False, rooted: bool = False) -> Learner:
    torch.manual_seed(1)
    return Learner(bundle, _network(bundle, drop_labels=drop_labels, rooted=rooted), what, rank=2).eval()


def _images(bundle: Bundle) -> Tensor:
    manifest = bundle.manifest
    side = manifest.transform.size
    view = View(side, manifest.mean, manifest.std)
    return view.tensor([sample_image(side, seed) for seed in (0, 1)])


def _disturbed(learner: Learner) -> Learner:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in learner.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return learner


def _exported(parent: Bundle, network: Network, learner: Learner, folder: Path) -> Bundle:
    update = {"options": network.options, "thresholds": 0.5, "profiles": {}, "floor": 0.0}
    manifest = parent.manifest.model_copy(update=update)
    return export(folder, manifest, weights=learner.weights(), labels=network.labels, card=CARD)


def _scores(bundle: Bundle, images: Sequence[Pixels]) -> Tensor:
    tagger = load_tagger(bundle.folder, device="cpu", precision="fp32")
    scores = torch.zeros(len(images), len(bundle.labels))
    for row, raw in enumerate(tagger.forward(images)):
        found = tagger.postprocess(raw)
        scores[row, torch.from_numpy(found.label_ids).long()] = torch.from_numpy(found.scores)
    return scores


@pytest.mark.parametrize(
    ("kind", "what", "drop_labels", "rooted"),
    [
        ("ram", "lora", False, True),
        ("ram_plus", "all", False, False),
        ("compact", "all", False, False),
        ("compact", "all", True, True),
        ("timm", "all", False, True),
        ("timm", "all", True, False),
        ("timm", "all", True, True),
    ],
)
def test_a_worker_gives_the_networks_answers(
    bundles: dict[str, Bundle], tmp_path: Path, kind: str, what: What, drop_labels: bool, rooted: bool
) -> None:
    parent = bundles[kind]
    network = _network(parent, drop_labels=drop_labels, rooted=rooted)
    learner = _disturbed(_learner(parent, what, drop_labels, rooted))
    assert network.labels == (*(() if drop_labels else parent.labels), *NEW)
    with torch.no_grad():
        expected = learner(_images(parent)).sigmoid()
    made = _exported(parent, network, learner, tmp_path / "made")
    side = parent.manifest.transform.size
    found = _scores(made, [sample_image(side, seed) for seed in (0, 1)])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["compact", "timm", "ram", "ram_plus"])
def test_labels_of_one_training_are_kept_in_the_next(bundles: dict[str, Bundle], tmp_path: Path, kind: str) -> None:
    parent = bundles[kind]
    taught_rooted = _network(parent, rooted=True), _disturbed(_learner(parent, rooted=True))
    first = _exported(parent, *taught_rooted, tmp_path / "first")
    network = _network(first, ("two", "four", parent.labels[0]))
    learner = Learner(first, network, "all").eval()
    assert network.labels == (*parent.labels, *NEW, "four")
    images = [sample_image(parent.manifest.transform.size, seed) for seed in (0, 1)]
    before = _scores(first, images)
    with torch.no_grad():
        begun = learner(_images(parent)).sigmoid()
    kept = [label for label, name in enumerate(first.labels) if label and name != "two"]
    torch.testing.assert_close(begun[:, kept], before[:, kept], rtol=1e-3, atol=1e-3)
    second = _exported(first, network, learner, tmp_path / "second")
    torch.testing.assert_close(_scores(second, images), begun, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["ram", "ram_plus", "compact", "timm"])
def test_some_labels_score_as_among_all(bundles: dict[str, Bundle], kind: str) -> None:
    learner = _learner(bundles[kind])
    labels = len(bundles[kind].labels) + len(NEW)
    ids = torch.tensor([0, labels - 2, labels - 1])
    with torch.no_grad():
        features = learner.encode(_images(bundles[kind]))
        torch.testing.assert_close(learner.score(features, ids), learner.score(features)[:, ids], rtol=1e-4, atol=1e-5)


def test_a_teacher_does_not_learn(bundles: dict[str, Bundle]) -> None:
    learner, old = _learner(bundles["ram"], "lora"), bundles["ram"].labels
    ids = range(len(old), len(old) + len(NEW))
    teacher = Fitting(learner, Labels((*old, *NEW), len(old), ids, bundles["ram"].thresholds)).teacher
    assert teacher is not None
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert any(parameter.requires_grad for parameter in learner.parameters())
