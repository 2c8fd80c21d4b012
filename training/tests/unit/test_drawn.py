"""The drawn set: the same for a seed, true to its truth, and noisy where it says so."""

from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest

from examples.learn.__main__ import main
from examples.learn.say import describe
from examples.learn.scene import LABELS, compose, is_held_out
from examples.learn.sets import draw
from tagstream_train.data.images import Images
from tagstream_train.data.samples import DataSet
from tagstream_train.parse.lexicon import LexiconParser, learn
from workers.errors import Misconfigured


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, DataSet]:
    return draw(tmp_path_factory.mktemp("drawn"), images=40, seed=7, side=64, report=lambda done, of: None)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_seed_draws_the_same_bytes_and_another_seed_others(drawn: Mapping[str, DataSet], tmp_path: Path) -> None:
    first = drawn["train"].folder.parent
    for seed, folder in ((7, tmp_path / "again"), (8, tmp_path / "other")):
        draw(folder, images=40, seed=seed, side=64, report=lambda done, of: None)
    assert files(tmp_path / "again") == files(first)
    assert files(tmp_path / "other") != files(first)


def test_the_parts_have_their_images_and_the_truth_is_whole(drawn: Mapping[str, DataSet]) -> None:
    assert {part: len(dataset) for part, dataset in drawn.items()} == {"train": 40, "truth": 40, "test": 8, "unseen": 8}
    for dataset in drawn.values():
        images = Images(dataset.folder)
        assert {images.load(sample.image).size for sample in dataset} == {(64, 64)}
    for sample in drawn["truth"]:
        assert sorted((*sample.tags, *(sample.absent or ()))) == list(range(len(LABELS)))
    assert [sample.sha256 for sample in drawn["train"]] == [sample.sha256 for sample in drawn["truth"]]


def test_a_held_out_pair_is_in_every_unseen_image_and_nowhere_else() -> None:
    for number in range(200):
        assert any(map(is_held_out, compose(Random(number), held_out=True).things))
        assert not any(map(is_held_out, compose(Random(number)).things))


def test_true_captions_name_only_visible_shapes() -> None:
    scenes = [compose(Random(number)) for number in range(300)]
    captions = [describe(scene, Random(number)) for number, scene in enumerate(scenes)]
    parsed = LexiconParser(learn(captions)).parse(captions)
    found = [{mention.text for mention in mentions} & set(LABELS) for mentions in parsed]
    assert all(tags <= scene.tags for tags, scene in zip(found, scenes, strict=True))
    said, true = sum(map(len, found)), sum(len(scene.tags) for scene in scenes)
    assert said > 0.95 * true


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(Misconfigured, match="exists already"):
        draw(tmp_path, images=2, seed=0, report=lambda done, of: None)


def test_the_command_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-o", str(tmp_path / "sets"), "--draw", "5"]) == 0
    assert "train: 5 images, 0 labels" in capsys.readouterr().out.replace("\n", " ")
