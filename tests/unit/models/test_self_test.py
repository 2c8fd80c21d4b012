"""A model knows the right answer for its self-test image, within its precision."""

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.models.tiny import build_tagger, tiny_bundle
from workers.errors import Broken
from workers.models.bundle import Bundle
from workers.models.device import choose_device
from workers.models.precision import DRIFT
from workers.models.ram.adapters import Tag2TextCaptioner, build_captioner
from workers.models.tagger import TorchTagger
from workers.ports import SelfTested
from workers.types import Caption

CPU = choose_device("cpu")


@pytest.fixture(scope="module", params=["golden answers", "none", "a subset"])
def tagger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TorchTagger:
    """Warm, with or without golden answers, or scoring some of its labels."""
    bundle = tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")
    if request.param == "none":
        bundle = Bundle(bundle.folder, bundle.manifest.model_copy(update={"files": {}}))
    made = build_tagger(bundle, CPU, "fp32", [0, 2] if request.param == "a subset" else None)
    made.warm_up()
    return made


@pytest.fixture(scope="module")
def captioner(tag2text: Bundle) -> Tag2TextCaptioner:
    made = build_captioner(tag2text, CPU, "fp32")
    made.warm_up()
    return made


def caption(captioner: Tag2TextCaptioner) -> Caption:
    return captioner.postprocess(captioner.forward([captioner.self_test_image()], [captioner.guide([])])[0])


def test_its_own_answer_is_right(tagger: TorchTagger, captioner: Tag2TextCaptioner) -> None:
    assert isinstance(tagger, SelfTested)
    tagger.check_self_test(tagger.forward([tagger.self_test_image()])[0])
    assert isinstance(captioner, SelfTested)
    captioner.check_self_test(caption(captioner))


def test_an_answer_is_wrong_where_the_start_would_refuse_it(tagger: TorchTagger) -> None:
    """The tolerance of the golden answers: a share of their range."""
    [right] = tagger.forward([tagger.self_test_image()])
    answer = tagger._right
    assert answer is not None
    allowed = DRIFT["fp32"] * float(np.ptp(answer))
    tagger.check_self_test(right + np.float32(0.9 * allowed))
    for wrong in (right + np.float32(1.1 * allowed), right * np.nan):
        with pytest.raises(Broken, match="golden answers"):
            tagger.check_self_test(wrong)


def test_an_answer_of_another_shape_is_no_answer(tagger: TorchTagger) -> None:
    [right] = tagger.forward([tagger.self_test_image()])
    with pytest.raises(ValueError, match="dimension"):
        tagger.check_self_test(right[:-1])


def test_another_caption_is_right_only_where_it_is_as_likely(captioner: Tag2TextCaptioner) -> None:
    right = caption(captioner)
    assert right.score is not None
    captioner.check_self_test(replace(right, score=right.score - 1))
    captioner.check_self_test(replace(right, text="a near tie", score=right.score - DRIFT["fp32"] / 2))
    for off in (-2 * DRIFT["fp32"], 2 * DRIFT["fp32"], float("nan")):
        with pytest.raises(Broken, match=r"^Tag2Text in fp32 .*: 'another one', and then "):
            captioner.check_self_test(replace(right, text="another one", score=right.score + off))
