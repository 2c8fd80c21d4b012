"""Other labels for RAM and RAM++, from a file of text embeddings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tests.unit.models.small import CPU, SMALL, small_bundle
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.labels import read_names
from workers.models.manifest import Provenance
from workers.models.ram.adapters import build_tagger
from workers.models.ram.relabel import label_matrix, with_matrix
from workers.models.tagger import sample_image


def unit_rows(rows: int, width: int = 512, seed: int = 5) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


class Files:
    def __init__(self, folder: Path, matrix: Tensor, *names: str) -> None:
        self.embeddings = folder / "embeddings.safetensors"
        self.names = names
        save_file({"text": matrix}, self.embeddings)

    def relabel(self, bundle: Bundle, out: Path, threshold: float = 0.5) -> Bundle:
        matrix = label_matrix(self.embeddings)
        return with_matrix(bundle, matrix, self.names, out, source=self.embeddings, thresholds=threshold)


def logits(bundle: Bundle) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    row: np.ndarray[tuple[int], np.dtype[np.float32]] = build_tagger(bundle, CPU, "fp32").forward(
        [sample_image(bundle.manifest.transform.size)]
    )[0]
    return row


def test_the_new_bundle_scores_the_new_labels(ram: Bundle, tmp_path: Path) -> None:
    new = Files(tmp_path, unit_rows(3), "hen", "ox", "eel").relabel(ram, tmp_path / "new", 0.25)
    assert (new.labels, new.thresholds, new.profiles) == (("hen", "ox", "eel"), (0.25,) * 3, {})
    assert new.digest != ram.digest
    tagger = build_tagger(Bundle.open(tmp_path / "new"), CPU, "fp32")
    tagger.warm_up()
    assert logits(new).shape == (3,)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ram", "ram_plus"])
def test_a_label_scores_the_same_under_its_old_embedding(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    old: Bundle = request.getfixturevalue(kind)
    descriptions = old.manifest.architecture.get("descriptions", 1)
    assert isinstance(descriptions, int)
    rows = F.normalize(old.weights()["label_embed"].float(), dim=1).view(old.manifest.labels, descriptions, -1)
    all_of_them = Files(tmp_path, rows.flatten(0, 1), *old.labels).relabel(old, tmp_path / "all")
    picked = [7, 2]
    some = Files(tmp_path, rows[picked].flatten(0, 1), "seven", "two").relabel(old, tmp_path / "some")
    assert np.allclose(logits(some), logits(all_of_them)[picked], atol=1e-5)


def test_ram_plus_takes_another_number_of_descriptions(ram_plus: Bundle, tmp_path: Path) -> None:
    new = Files(tmp_path, unit_rows(6), "hen", "ox").relabel(ram_plus, tmp_path / "new")
    assert new.manifest.architecture["descriptions"] == 3
    build_tagger(new, CPU, "fp32").warm_up()


def test_random_weights_stay_random_and_the_source_names_the_file(ram: Bundle, tmp_path: Path) -> None:
    new = Files(tmp_path, unit_rows(1), "hen").relabel(ram, tmp_path / "new")
    assert new.manifest.provenance == Provenance(source="seed 0, labels of embeddings.safetensors", random=True)


@pytest.mark.slow
def test_tag2text_has_no_open_set(tmp_path: Path) -> None:
    bundle = small_bundle("tag2text", tmp_path / "tag2text", config=replace(SMALL["tag2text"], labels=9))
    with pytest.raises(Misconfigured, match=r"only RAM and RAM\+\+ take others"):
        Files(tmp_path, unit_rows(1), "hen").relabel(bundle, tmp_path / "new")


@pytest.mark.parametrize(
    ("kind", "matrix", "says"),
    [
        ("ram", unit_rows(3), "3 rows for 2 names; RAM wants one for each"),
        ("ram_plus", unit_rows(3), r"3 rows for 2 names; RAM\+\+ wants equally many"),
        ("ram", unit_rows(2, 40), "rows of 40 numbers where this model reads 512"),
        ("ram", unit_rows(2) * 9, "lengths from 9 to 9; divide each by its length"),
        ("ram", unit_rows(2) * torch.nan, "divide each by its length"),
        ("ram", unit_rows(2)[0], "must hold rows of floats"),
        ("ram", torch.ones(2, 512, dtype=torch.int64), "must hold rows of floats"),
    ],
)
def test_files_that_do_not_fit_are_a_sentence(
    kind: str, matrix: Tensor, says: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(Misconfigured, match=says):
        Files(tmp_path, matrix, "hen", "ox").relabel(request.getfixturevalue(kind), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_file_that_is_no_safetensors_or_has_two_matrices_is_a_sentence(ram: Bundle, tmp_path: Path) -> None:
    files = Files(tmp_path, unit_rows(1), "hen")
    files.embeddings.write_bytes(b"\x80\x02not it")
    with pytest.raises(Misconfigured, match="no safetensors file"):
        files.relabel(ram, tmp_path / "new")
    save_file({"a": unit_rows(1), "b": unit_rows(1)}, files.embeddings)
    with pytest.raises(Misconfigured, match=r"has 2 tensors \(a, b\); it must have one"):
        files.relabel(ram, tmp_path / "new")


def test_names_are_lines_with_their_blanks_and_empty_lines_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("\ufeffhen\r\n\r\nox \n\n".encode())
    assert read_names(tmp_path / "names.txt") == ["hen", "ox "]


@pytest.mark.parametrize(
    ("content", "says"), [(b"\n\n", "holds no name"), (b"\xff\xfe", "not text"), (None, "can't be read")]
)
def test_a_file_without_names_is_a_sentence(content: bytes | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(Misconfigured, match=says):
        read_names(tmp_path / "names.txt")
