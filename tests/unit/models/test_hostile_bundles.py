"""Bundles of RAM and Tag2Text that claim what does not go together: a sentence before anything is computed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.models.small import CPU, small_bundle
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.manifest import Manifest, digest_of
from workers.models.ram.adapters import build_captioner, build_tagger

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle("tag2text", tmp_path_factory.mktemp("bundles") / "sound").folder


def claiming(sound: Path, folder: Path, changes: Mapping[str, Any]) -> Bundle:
    """The same bundle with other claims in its manifest, sealed as its maker would."""
    shutil.copytree(sound, folder)
    document = json.loads((folder / "model.json").read_text())
    _change(document, changes)
    (folder / "golden.safetensors").unlink()
    del document["files"]["golden.safetensors"]
    document["digest"] = digest_of(Manifest.model_validate(document))
    (folder / "model.json").write_text(json.dumps(document))
    return Bundle.open(folder)


def _change(document: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(document.get(name), dict):
            _change(document[name], value)
        else:
            document[name] = value


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encoder": {"depths": []}}, "the encoder has 1 to 8 stages"),
        ({"encoder": {"heads": [1, 2, 4]}}, "the encoder has 1 to 8 stages"),
        ({"encoder": {"depths": [1] * 100_000}}, "the encoder has 1 to 8 stages"),
        ({"encoder": {"heads": [1, 2, 4, 7]}}, "stage 4 is 128 wide, which 7 heads do not divide"),
        ({"head": {"heads": 5}}, "the tag head is 96 wide, which 5 heads do not divide"),
        ({"text": {"heads": 7}}, "the text branch is 96 wide, which 7 heads do not divide"),
        ({"encoder": {"depths": [1, 1, 99, 99]}}, "the weights do not fit"),
        ({"encoder": {"image_size": 1024}}, "the encoder takes 1024"),
    ],
)
def test_an_architecture_that_is_none_is_a_sentence(
    tmp_path: Path, sound: Path, changes: Mapping[str, Any], says: str
) -> None:
    bundle = claiming(sound, tmp_path / "bundle", {"architecture": changes})
    for build in (build_tagger, build_captioner):
        with pytest.raises(Misconfigured, match=says) as refused:
            build(bundle, CPU, "fp32")
        assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize("decoding", [{"beams": 10**6}, {"max_length": 10**9}, {"max_length": 3}])
def test_captions_that_can_not_be_written_are_a_sentence(
    tmp_path: Path, sound: Path, decoding: Mapping[str, int]
) -> None:
    bundle = claiming(sound, tmp_path / "bundle", {"options": {"decoding": decoding}})
    with pytest.raises(Misconfigured, match="the option `decoding`"):
        build_captioner(bundle, CPU, "fp32")
