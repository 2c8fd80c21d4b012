"""Networks between two bundles: what they know before they learn, and that a worker gives what they give."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tagstream_train.adapt import Learner, What, learner_of
from tagstream_train.data.loader import View
from tagstream_train.export import export
from tests.unit.models.small import small_bundle
from training.tests.unit.test_results import CARD
from workers.models.bundle import Bundle
from workers.models.compact import compact_bundle
from workers.models.load import load_tagger
from workers.models.tagger import sample_image
from workers.models.timm_network import make_bundle

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
        "compact": compact_bundle(folder / "cache"),
        "timm": make_bundle("test_resnet", folder / "timm", folder / "resnet.safetensors"),
    }


def _learner(bundle: Bundle, what: What = "all") -> Learner:
    torch.manual_seed(1)
    return learner_of(bundle, NEW, what, rank=2).eval()


def _images(bundle: Bundle) -> Tensor:
    manifest = bundle.manifest
    side = manifest.transform.size
    view = View(side, manifest.mean, manifest.std)
    return view.tensor([sample_image(side, seed) for seed in (0, 1)])


def _disturbed(learner: Learner) -> Learner:
    """As if it had learnt something."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in learner.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return learner


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("ram", "lora"),
        ("ram_plus", "all"),
        ("compact", "all"),
        ("timm", "all"),
    ],
)
def test_a_worker_gives_what_the_network_gave(
    bundles: dict[str, Bundle], tmp_path: Path, kind: str, what: What
) -> None:
    parent = bundles[kind]
    learner = _disturbed(_learner(parent, what))
    with torch.no_grad():
        expected = learner(_images(parent))
    architecture, options = learner.architecture(), {**parent.manifest.options, **learner.options()}
    update = {"architecture": architecture, "options": options, "thresholds": 0.5, "profiles": {}}
    manifest = parent.manifest.model_copy(update=update)
    made = export(tmp_path / "made", manifest, weights=learner.weights(), labels=learner.labels, card=CARD)
    tagger = load_tagger(made.folder, device="cpu", precision="fp32")
    side = parent.manifest.transform.size
    found = torch.stack([torch.from_numpy(raw) for raw in tagger.forward([sample_image(side, s) for s in (0, 1)])])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["ram", "ram_plus"])
def test_old_labels_begin_with_the_bundles_answers(bundles: dict[str, Bundle], kind: str) -> None:
    learner = _learner(bundles[kind])
    golden = bundles[kind].golden
    assert golden is not None
    with torch.no_grad():
        found = learner(_images(bundles[kind]))
    assert found.shape == (2, 63)
    torch.testing.assert_close(found[:, :60], torch.from_numpy(golden.outputs), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["ram", "ram_plus", "compact", "timm"])
def test_some_labels_score_as_among_all(bundles: dict[str, Bundle], kind: str) -> None:
    learner = _learner(bundles[kind])
    ids = torch.tensor([0, len(learner.labels) - 2, len(learner.labels) - 1])
    with torch.no_grad():
        features = learner.encode(_images(bundles[kind]))
        torch.testing.assert_close(learner.score(features, ids), learner.score(features)[:, ids], rtol=1e-4, atol=1e-5)


def test_a_teacher_does_not_learn(bundles: dict[str, Bundle]) -> None:
    learner = _learner(bundles["ram"], "lora")
    assert not any(parameter.requires_grad for parameter in learner.teacher().parameters())
    assert any(parameter.requires_grad for parameter in learner.parameters())
