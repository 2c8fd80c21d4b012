"""Files of vectors by key: both forms, and all their faults."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tagstream_train.data.samples import Sample
from tagstream_train.features import Features, image_key, text_key
from workers.errors import Misconfigured

VECTORS = {"a.jpg": torch.tensor([1.0, 0.0, 0.0]), "b.jpg": torch.tensor([0.0, 0.6, 0.8])}


def _file(folder: Path, tensors: dict[str, Tensor], keys: str | None = None) -> Path:
    path = folder / "features.safetensors"
    save_file(tensors, path)
    if keys is not None:
        path.with_suffix(".txt").write_text(keys)
    return path


def test_vectors_by_name_and_rows_of_a_matrix_are_the_same(tmp_path: Path) -> None:
    by_name = Features(_file(tmp_path, VECTORS), 3)
    (tmp_path / "rows").mkdir()
    as_rows = Features(_file(tmp_path / "rows", {"any": torch.stack(list(VECTORS.values()))}, "a.jpg\nb.jpg\n"), 3)
    for features in (by_name, as_rows):
        assert (len(features), features.width, "b.jpg" in features, "c.jpg" in features) == (2, 3, True, False)
        assert torch.equal(features.rows(["b.jpg", "a.jpg"]), torch.stack([VECTORS["b.jpg"], VECTORS["a.jpg"]]))


def test_half_precision_is_read_as_single(tmp_path: Path) -> None:
    features = Features(_file(tmp_path, {"a": torch.tensor([0.5, 2.0]).bfloat16()}))
    assert torch.equal(features.rows(["a"]), torch.tensor([[0.5, 2.0]]))


def test_an_image_is_known_by_its_bytes_or_its_name_and_a_text_by_itself_or_its_digest(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"a red dog").hexdigest()
    features = Features(_file(tmp_path, {"f" * 64: torch.ones(2), "a.jpg": torch.ones(2), digest: torch.ones(2)}))
    assert image_key(features, Sample(image="x.jpg", sha256="f" * 64)) == "f" * 64
    assert image_key(features, Sample(image="a.jpg", sha256="e" * 64)) == "a.jpg"
    assert text_key(features, "a red dog") == digest
    assert text_key(features, "a.jpg") == "a.jpg"


def test_texts_must_have_length_one(tmp_path: Path) -> None:
    features = Features(_file(tmp_path, {"long": torch.tensor([3.0, 4.0]), "nearly": torch.tensor([0.61, 0.8])}))
    assert torch.linalg.vector_norm(features.units(["nearly"])).item() == pytest.approx(1)
    with pytest.raises(Misconfigured, match="lengths from 5 to 5"):
        features.units(["long"])


@pytest.mark.parametrize(
    ("tensors", "keys", "complaint"),
    [
        ({"a": torch.ones(2), "b": torch.ones(3)}, None, "vectors of one width"),
        ({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, None, "vectors of one width"),
        ({"a": torch.ones(2, 2, 2)}, None, "vectors of one width"),
        ({}, None, "vectors of one width"),
        ({"a": torch.ones(4)}, None, "4 numbers where the model reads 3"),
        ({"a": torch.ones(3, dtype=torch.int64)}, None, "int64"),
        ({"a": torch.ones(2, 3)}, None, "can't be read"),
        ({"a": torch.ones(2, 3)}, "one\n", "2 rows, and features.txt 1 different keys in 1 lines"),
        ({"a": torch.ones(2, 3)}, "one\none\n", "1 different keys in 2 lines"),
    ],
)
def test_another_content_is_a_sentence(
    tensors: dict[str, Tensor], keys: str | None, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(Misconfigured, match=complaint):
        Features(_file(tmp_path, tensors, keys), 3)


def test_a_file_of_something_else_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 64)
    for name in ("x.safetensors", "absent.safetensors"):
        with pytest.raises(Misconfigured, match=name):
            Features(tmp_path / name)


def test_a_missing_key_and_a_broken_vector_are_sentences(tmp_path: Path) -> None:
    features = Features(_file(tmp_path, {"a": torch.tensor([float("nan"), 1.0])}))
    with pytest.raises(Misconfigured, match="no vector for 'b'"):
        features.rows(["b"])
    with pytest.raises(Misconfigured, match="not finite"):
        features.rows(["a"])
