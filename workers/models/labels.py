"""Lists of label names, label files, and examples for calibration."""

from __future__ import annotations

import csv
import hashlib
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from schemas.enriched_image import PARENTS_MAX
from workers.errors import Misconfigured, nearest
from workers.models.bundle import Bundle
from workers.models.files import CONTROLS, bytes_of, lines_of, text_of
from workers.models.manifest import Language, Score


def read_names(path: Path) -> list[str]:
    """Label names from a text file, one a line; empty lines don't count, blanks at a name's ends belong to it.

    Raises Misconfigured: the file can't be read, or holds no name.
    """
    names = [line for line in lines_of(path) if line.strip()]
    if not names:
        raise Misconfigured(f"{path} holds no name; write one label a line.")
    return names


def label_ids(bundle: Bundle, names: Iterable[str]) -> list[int]:
    """The ids of these labels, ascending; a name that several labels share means all of them.

    Raises Misconfigured: names no label, or one that the bundle does not have.
    """
    wanted = set(names)
    unknown = sorted(wanted.difference(bundle.labels))
    if unknown:
        raise Misconfigured(
            f"{bundle.name} has no label {unknown[0]!r} ({len(unknown)} of {len(wanted)} are unknown)."
            f"{nearest(unknown[0], bundle.labels)}"
        )
    if not wanted:
        raise Misconfigured(f"The list of allowed labels for {bundle.name} is empty.")
    return [number for number, name in enumerate(bundle.labels) if name in wanted]


def narrowed_digest(digest: str, ids: Sequence[int]) -> str:
    """The digest of a model that scores only these labels."""
    named = ",".join(map(str, ids))
    return hashlib.sha256(f"{digest}\n{named}\n".encode()).hexdigest()


def label_names() -> list[str]:
    """A thousand names by label id, no two alike.

    `imagenet_labels.txt` has one a line: the first of the label's WordNet words ("hog" of "hog, pig, grunter,
    squealer"), or another where that one reads badly or two labels have it ("crane (bird)", "crane (machine)").
    """
    return Path(__file__).with_name("imagenet_labels.txt").read_text(encoding="utf-8").splitlines()


def label_parents() -> list[list[str]]:
    """At most three wider names of each of `label_names`, nearest first; *bubble* has none.

    WordNet's hypernyms, as one who looks for photographs says them. A name stands at all labels below it or at none:
    *mammal* has no room beside *hound* and *dog*.
    """
    text = Path(__file__).with_name("imagenet_parents.txt").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if not line.startswith("#")]
    return [row.split(", ") if row else [] for row in rows]


MOST_LABELS: Final = 20_000
TEMPLATES: Final = ("{}", "a photo of {}")
BACKGROUND: Final = ("a photo", "an image", "a picture of something", "an object", "a place", "a person", "text")
"""Background sentences of CLIP's labels; SigLIP has a bias instead."""
_MAX_BYTES: Final = 16 * 1024**2
_PART: Final = r"""(?:[\w-]++|"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+"""
_LONG_KEY: Final = re.compile(rf"(?<![\w\\-])(?:{_PART}){{16}}")
"""A key of n parts takes tomllib time and memory in proportion to n². Ours have two, and names few words with dots."""


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty; write some words, or leave it out")
    if CONTROLS.search(text):
        raise ValueError("it has control characters (a line break, a tab, …); take them out")
    return text.strip()


def _template(text: str) -> str:
    if text.count("{}") != 1:
        raise ValueError("it must have one {}, where the description goes")
    return text


Text = Annotated[str, Field(max_length=300), AfterValidator(_text)]
Template = Annotated[Text, AfterValidator(_template)]


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class OwnLabel(_Closed):
    """A label of a label file.

    Args:
        descriptions: sentences that fit its images; empty: only the name.
        share: the expected share of images with it.
    """

    name: Annotated[Text, Field(max_length=200)]
    descriptions: Annotated[tuple[Text, ...], Field(strict=False, min_length=1, max_length=8)] = ()
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    threshold: Score | None = None
    parents: Annotated[tuple[Text, ...], Field(strict=False, max_length=PARENTS_MAX)] = ()
    translations: dict[Language, Text] = {}

    @property
    def sentences(self) -> Sequence[str]:
        """What describes it: at least its name."""
        return self.descriptions or (self.name,)


class _Document(_Closed):
    label: Annotated[tuple[OwnLabel, ...], Field(strict=False, min_length=1, fail_fast=True)]
    templates: Annotated[tuple[Template, ...], Field(strict=False, min_length=1, max_length=100)] = TEMPLATES
    background: Annotated[tuple[Text, ...], Field(strict=False, min_length=1, max_length=1000)] = BACKGROUND


class LabelFile(NamedTuple):
    """A label file's content."""

    labels: Sequence[OwnLabel]
    templates: Sequence[str]
    background: Sequence[str]
    sha256: str

    def sentences(self, label: OwnLabel) -> list[str]:
        """Each description in each template, description by description."""
        return [template.replace("{}", text) for text in label.sentences for template in self.templates]

    @property
    def bare(self) -> list[str]:
        """Labels that nothing but their name describes."""
        return [label.name for label in self.labels if list(label.sentences) == [label.name]]

    @property
    def translations(self) -> dict[str, list[str]]:
        """All names by language; a label without a translation keeps its name."""
        codes = sorted({code for label in self.labels for code in label.translations})
        return {code: [label.translations.get(code, label.name) for label in self.labels] for code in codes}


def read_label_file(path: Path) -> LabelFile:
    """Read TOML (`.toml`), or a list with one label a line.

    Raises Misconfigured: it can't be read, or breaks a rule of the format.
    """
    content = bytes_of(path, _MAX_BYTES)
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Misconfigured(f"{path}, line {line}: it is not text in UTF-8; save the file as UTF-8.") from None
    if path.suffix == ".toml":
        if long := _LONG_KEY.search(text):
            line = text.count("\n", 0, long.start()) + 1
            raise Misconfigured(f"{path}, line {line}: over 16 words are joined by dots; write fewer, or with blanks.")
        try:
            document = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise Misconfigured(f"{path} is not TOML: {error}.") from None
    else:
        document = {"label": [{"name": line} for line in text.split("\n") if line.strip()]}
    read = _checked(path, document)
    for name, times in Counter(label.name for label in read.label).items():
        if times > 1:
            raise Misconfigured(f"{path} has {times} labels {name!r}; join their descriptions, or rename all but one.")
    return LabelFile(read.label, read.templates, read.background, hashlib.sha256(content).hexdigest())


def _checked(path: Path, document: dict[str, Any]) -> _Document:
    labels = document.get("label")
    if isinstance(labels, list) and len(labels) > MOST_LABELS:
        raise Misconfigured(
            f"{path} has {len(labels):,} labels, and a bundle takes {MOST_LABELS:,}; make several bundles of it."
        )
    try:
        return _Document.model_validate(document)
    except ValidationError as error:
        errors = error.errors()
        # A misspelt key first: that the right one is missing follows from it.
        first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
        where, what = first["loc"], first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            raise Misconfigured(f"{path}{_unknown_key(where, labels)}") from None
        if not labels:
            raise Misconfigured(f'{path} has no label; write [[label]] and name = "…", or one name a line.') from None
        of = _label(where, labels)
        field = ".".join(str(part)[:100] for part in where[2 if of else 0 :]) or "label"
        raise Misconfigured(f"{path}{of}: {field}: {what[0].lower()}{what[1:]}.") from None


def _unknown_key(where: Sequence[int | str], labels: Any) -> str:
    of, key = _label(where, labels), str(where[-1])
    known = (OwnLabel if of else _Document).model_fields
    help_ = nearest(key, known) or f" The keys are {', '.join(known)}."
    return f"{of}: {key[:100]!r} is no key of {'a label' if of else 'the file'}.{help_}"


def _label(where: Sequence[int | str], labels: Any) -> str:
    """The label that a fault is in; empty for the file's own keys."""
    if where[0] != "label" or len(where) < 2 or not isinstance(number := where[1], int):
        return ""
    name = labels[number].get("name", "") if isinstance(labels[number], dict) else ""
    return f", label {number + 1} ({name!r:.100})"


_SHAPE: Final = "write image,label,1 (it shows the label) or image,label,0"


class Examples(NamedTuple):
    """Images, and what people say of them.

    Args:
        images: paths, or s3://bucket/key; each once.
        marks: by label id, whether each image (by its number) shows the label.
    """

    images: Sequence[str]
    marks: Mapping[int, Mapping[int, bool]]


def read_examples(path: Path, labels: Sequence[str]) -> Examples:
    """Read a CSV file in UTF-8; a first line `image,label,…` is passed over.

    Raises Misconfigured: it can't be read, or a line is no example, names an unknown label, or says something twice.
    """
    ids = {name: number for number, name in reversed(list(enumerate(labels)))}
    images: dict[str, int] = {}
    marks: dict[int, dict[int, bool]] = {}
    rows = csv.reader(StringIO(text_of(path)), strict=True)
    try:
        for row in rows:
            if not row or (rows.line_num == 1 and row[:2] == ["image", "label"]):
                continue
            at = f"{path}, line {rows.line_num}"
            if len(row) != 3 or row[2].strip() not in ("0", "1") or not row[0] or CONTROLS.search(row[0]):
                raise Misconfigured(f"{at}: it is no example; {_SHAPE}.")
            name, label, said = row[0], row[1], row[2].strip() == "1"
            if label not in ids:
                raise Misconfigured(f"{at}: the bundle has no label {label!r:.200}.{nearest(label, labels)}")
            of_label = marks.setdefault(ids[label], {})
            if of_label.setdefault(images.setdefault(name, len(images)), said) is not said:
                raise Misconfigured(
                    f"{at}: an earlier line says the opposite of {name!r:.200} and {label!r}; keep one."
                )
    except csv.Error as error:
        raise Misconfigured(f"{path}, line {rows.line_num}: it is no CSV ({error}); {_SHAPE}.") from None
    return Examples(list(images), marks)
