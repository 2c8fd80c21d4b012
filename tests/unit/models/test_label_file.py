"""Label files: the allowed content, and the sentence for each fault."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.errors import Misconfigured
from workers.models.labels import BACKGROUND, MOST_LABELS, TEMPLATES, read_label_file

WHOLE = """
templates = ["a photo of a {}."]
background = ["a photo", "an image"]

[[label]]
name = "forklift"
descriptions = ["forklift", "industrial truck with two prongs"]
share = 0.004
threshold = 0.3
parents = ["vehicle", "machine"]
translations = {de = "Gabelstapler"}

[[label]]
name = "pallet"
"""


def written(folder: Path, content: str | bytes, name: str = "labels.toml") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_toml_file_says_all_of_its_labels(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    read = read_label_file(path)
    forklift, pallet = read.labels
    assert forklift.sentences == ("forklift", "industrial truck with two prongs")
    assert (forklift.share, forklift.threshold, forklift.parents) == (0.004, 0.3, ("vehicle", "machine"))
    assert (pallet.sentences, pallet.share, pallet.threshold) == (("pallet",), None, None)
    assert (read.templates, read.background) == (("a photo of a {}.",), ("a photo", "an image"))
    assert read.translations == {"de": ["Gabelstapler", "pallet"]}
    assert read.bare == ["pallet"]
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("content", ["red car\n\n  dog \n", "\ufeffred car\r\ndog\r\n", "red car\ndog"])
def test_a_plain_list_has_a_label_a_line(tmp_path: Path, content: str) -> None:
    read = read_label_file(written(tmp_path, content, "labels.txt"))
    assert [label.name for label in read.labels] == read.bare == ["red car", "dog"]
    assert (read.templates, read.background) == (TEMPLATES, BACKGROUND)


LABEL = '[[label]]\nname = "a"\n'
BAD: dict[str, tuple[str | bytes, str]] = {
    "duplicate": (LABEL + "\n" + LABEL, "has 2 labels 'a'; join"),
    "empty description": (
        LABEL + 'descriptions = ["x", " "]',
        r"label 1 .'a'.: descriptions.1: it is empty; write",
    ),
    "no description": (LABEL + "descriptions = []", "label 1 .'a'.: descriptions: .*at least 1"),
    "nine descriptions": (LABEL + f"descriptions = {['x'] * 9}", "label 1 .'a'.: descriptions: .*at most 8"),
    "empty name": (LABEL + '[[label]]\nname = ""', r"label 2 \(''\): name: it is empty"),
    "no name": ("[[label]]\nshare = 0.1", r"label 1 \(''\): name: field required"),
    "control characters": (
        LABEL + 'descriptions = ["x\\u0007"]',
        "label 1 .'a'.: descriptions.0: it has control characters",
    ),
    "share": (LABEL + "share = 1.0", "label 1 .'a'.: share: .*less than 1"),
    "threshold": (LABEL + "threshold = nan", "label 1 .'a'.: threshold: .*finite"),
    "parents": (LABEL + 'parents = ["a", "b", "c", "d"]', "label 1 .'a'.: parents: .*at most 3"),
    "language": (LABEL + 'translations = {"d e" = "x"}', "label 1 .'a'.: translations"),
    "unknown key": (LABEL + "zzz = 0.1", "label 1 .'a'.: 'zzz' is no key of a label. The keys are name, "),
    "misspelt key": (
        LABEL + "\n" + LABEL.replace('"a"', '"b"') + "\ntreshold = 0.1",
        r"label 2 \('b'\): 'treshold' is no key of a label. Do you mean 'threshold'",
    ),
    "misspelt name": ('[[label]]\nnmae = "a"', r"label 1 \(''\): 'nmae' is no key of a label. Do you mean 'name'"),
    "misspelt key of the file": ('# x\ntempaltes = ["{}"]\n' + LABEL, ": 'tempaltes' .* mean 'templates'"),
    "misspelt table": ('[[labl]]\nname = "a"', ": 'labl' .* mean 'label'"),
    "template": ('templates = ["a photo"]\n' + LABEL, "templates.0: it must have one {}"),
    "no label": ("", "has no label; write"),
    "no table": ("label = 3", "has no label|label: "),
    "no TOML": (LABEL + "share = a lot", r"is not TOML: .*line 3"),
    "a number of 5,000 digits": (LABEL + "share = " + "9" * 5_000, "is not TOML: .*digits"),
    "a key of many parts": (LABEL + "\n" + "a." * 500_000 + "a = 1", "line 4: over 16 words"),
    "a key of many quoted parts": ('["\\"a".' + "'b' . " * 8_000 + "c]", "line 1: over 16 words"),
    "deep": ("x = " + "[" * 5_000, "is not TOML"),
    "another encoding": (LABEL.encode() + 'share = "é"'.encode("latin-1"), "line 3: it is not text in UTF-8; save"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_error_is_reported_with_its_label(tmp_path: Path, case: str) -> None:
    content, said = BAD[case]
    path = written(tmp_path, content)
    with pytest.raises(Misconfigured, match=said) as told:
        read_label_file(path)
    assert str(told.value).startswith(str(path))
    assert "\n" not in str(told.value)


def test_a_list_of_too_many_labels_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "".join(f"label {number}\n" for number in range(MOST_LABELS + 1)), "labels.txt")
    with pytest.raises(Misconfigured, match="has 20,001 labels"):
        read_label_file(path)
    with pytest.raises(Misconfigured, match=r"label 2 \('b.*'\): name: it has control characters"):
        read_label_file(written(tmp_path, "a\nb\tc\n", "labels.txt"))
    with pytest.raises(Misconfigured, match="can't be read"):
        read_label_file(tmp_path / "absent.toml")


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode), toml=st.booleans())
def test_any_file_is_labels_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes, toml: bool) -> None:
    path = written(tmp_path_factory.getbasetemp(), content, "any.toml" if toml else "any.txt")
    try:
        read = read_label_file(path)
    except Misconfigured:
        return
    names = [label.name for label in read.labels]
    assert 0 < len(names) == len(set(names))
    assert all(name.strip() for name in names)
