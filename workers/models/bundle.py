"""Bundles: everything a model needs, in one folder that travels as a whole.

    model.json            what it is (`Manifest`), with the size and sha256 of every other file
    weights.safetensors   the parameters; never a pickle
    tags.txt              label names, one a line, the line number is the label id
    tags.<lang>.txt       the same labels in another language
    parents.json          at most three wider names of each label, nearest first
    vocab.txt             WordPiece vocabulary of a captioner
    text.safetensors      the text tower of a dual encoder, and
    tokenizer.json        its tokenizer; a worker needs neither of these three, and they may be left out where it runs
    alignment.safetensors the alignment part of a Tag2Text
    golden.safetensors    images and the answers that fp32 gave for them when the bundle was made

`Bundle.open` is quick whatever the weights' size: it checks the manifest, that every file is there and has its length,
and the content of all but the weights. `Bundle.verify` reads the weights too. A worker does the first, and then runs
the golden images, which no damaged weights survive; with a pinned digest (`pinned`) it does the second as well.

A bundle may come from anywhere: every size is bounded before anything is read, and no file lies outside the folder.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from schemas.enriched_image import PARENTS_MAX
from schemas.text import first_fault
from workers.errors import Misconfigured
from workers.models.files import CONTROLS, content_of, disk_faults, reading_safetensors, sha256_of, text_of
from workers.models.manifest import GOLDEN, MAX_LABELS, PARENTS, FileFacts, Manifest, Thresholds, digest_of
from workers.types import Pixels, Transform

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "model.json"
WEIGHTS = "weights.safetensors"
LABELS = "tags.txt"
VOCABULARY = "vocab.txt"
TEXT = "text.safetensors"
TOKENIZER = "tokenizer.json"
ALIGNMENT = "alignment.safetensors"
BESIDE = {TEXT: "text tower", TOKENIZER: "text tower's tokenizer", ALIGNMENT: "alignment part"}
"""Files that `Provenance.beside` lists, and not `Manifest.files`, with the part that each holds."""

EDITION = 4
"""Version of the compact bundle's conversion: a bundle of another version is made again."""

_PARENT = Annotated[str, Field(min_length=1, max_length=200, pattern=f"^[^{CONTROLS.pattern[1:-1]}]+$")]
_PARENTS: TypeAdapter[list[list[str]]] = TypeAdapter(
    Annotated[
        list[Annotated[list[_PARENT], Field(max_length=PARENTS_MAX)]], Field(max_length=MAX_LABELS, fail_fast=True)
    ]
)
_MAX_MANIFEST_BYTES = 16 * 1024**2
_MAX_FILE_BYTES = 256 * 1024**2
"""The most bytes of every file but the weights, which are mapped and not read."""


@dataclass(frozen=True, slots=True)
class Golden:
    """Images with the answers of the bundle's own weights in fp32.

    Args:
        pixels: (n, side, side, 3) uint8, as the transform leaves them. The first is the model's self-test image.
        outputs: (n, m) float32, what `forward` gives for each; empty (n, 0) for a model without such a row.
        guides: a captioner's guide for each image, or empty.
        captions: and its caption for each.
    """

    pixels: Pixels
    outputs: NDArray[np.float32]
    guides: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bundle:
    """One opened bundle. Make it with `open` or `write`."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Read a bundle, with all checks but the content of its weights.

        Raises Misconfigured: it is not a bundle, or something of it is missing, cut short, or changed.
        """
        bundle = cls(folder, _read_manifest(folder))
        _check_files(bundle)
        _check_lengths(bundle)
        if bundle.digest != digest_of(bundle.manifest):
            raise Misconfigured(f"{folder / MANIFEST}: its digest does not match its content; import the model again.")
        return bundle

    @classmethod
    def write(
        cls,
        folder: Path,
        manifest: Manifest,
        *,
        weights: Mapping[str, Tensor],
        labels: Sequence[str] = (),
        translations: Mapping[str, Sequence[str]] | None = None,
        parents: Sequence[Sequence[str]] = (),
        vocabulary: bytes | None = None,
        beside: Mapping[str, Callable[[Path], object]] | None = None,
        golden: Callable[[Bundle], Golden] | None = None,
        replace_existing: bool = False,
    ) -> Bundle:
        """Write a bundle as a whole or not at all.

        Args:
            parents: wider names of each label, nearest first; may be empty.
            beside: writes further files, each to this path: those of `BESIDE`, or what an added kind needs.
            golden: runs the finished bundle (in fp32) to make its golden answers.

        Raises:
            Misconfigured: the folder exists, or lengths do not fit together.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        scratch.chmod(0o755)  # mkdtemp's 0700 would hide the bundle from a worker under another user
        try:
            write_tensors(scratch / WEIGHTS, weights)
            for name, write in (beside or {}).items():
                write(scratch / name)
            for name, lines in _lists(labels, translations or {}).items():
                (scratch / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            if any(parents):
                (scratch / PARENTS).write_bytes(to_json(parents))
            if vocabulary is not None:
                (scratch / VOCABULARY).write_bytes(vocabulary)
            languages = tuple(translations or {})
            bundle = _seal(scratch, manifest.model_copy(update={"labels": len(labels), "languages": languages}))
            if golden is not None:
                answers = golden(bundle)
                if not np.isfinite(answers.outputs).all():
                    raise Misconfigured(f"{folder}: the model's golden answers are not numbers: damaged weights.")
                _write_golden(scratch / GOLDEN, answers)
                bundle = _seal(scratch, bundle.manifest)
            _move(scratch, folder, replace_existing)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        return replace(bundle, folder=folder)

    def verify(self) -> None:
        """Check the content of every file, weights included: about a second a gigabyte.

        Raises Misconfigured: a file changed since the bundle was made.
        """
        for name in self.manifest.files:
            _check_content(self, name, self.manifest.files[name])
        for name in self.manifest.provenance.beside:
            if (self.folder / name).exists():
                self.beside(name)

    def beside(self, name: str, max_bytes: int | None = None) -> Path:
        """A file that no worker opens, with all its bytes checked.

        Raises Misconfigured: the bundle was copied without it, or it is changed, a link out of the folder, or larger
        than `max_bytes`.
        """
        path, facts = self.folder / name, self.manifest.provenance.beside.get(name)
        if facts is None or not path.is_file():
            raise Misconfigured(
                f"{path} is missing, the {BESIDE[name]}: this copy of the bundle came without it. Copy the file from "
                f"where the bundle was made, or make the bundle again (from {self.manifest.provenance.source})."
            )
        if max_bytes is not None and facts.bytes > max_bytes:
            raise Misconfigured(f"{path} has {facts.bytes:,} bytes, and may have {max_bytes:,}.")
        _check_place(self, path, facts)
        _check_content(self, name, facts)
        return path

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def size_bytes(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(facts.bytes for facts in self.manifest.files.values())

    @property
    def transform(self) -> Transform:
        return self.manifest.transform

    @cached_property
    def labels(self) -> tuple[str, ...]:
        return _lines(self.folder / LABELS) if self.manifest.labels else ()

    @cached_property
    def translations(self) -> dict[str, tuple[str, ...]]:
        return {language: _lines(self.folder / _translated(language)) for language in self.manifest.languages}

    @cached_property
    def parents(self) -> Sequence[Sequence[str]]:
        """At most three wider names of each label, nearest first; empty if the bundle has no such names."""
        if PARENTS not in self.manifest.files:
            return ()
        path = self.folder / PARENTS
        try:
            return _PARENTS.validate_json(content_of(path, _MAX_FILE_BYTES))
        except ValidationError as error:
            raise Misconfigured(f"{path} holds no parents of labels ({first_fault(error)}).") from None

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The default threshold of each label."""
        return _spread(self.manifest.thresholds, self.manifest.labels)

    @property
    def profiles(self) -> dict[str, tuple[float, ...]]:
        """Named sets of other thresholds, each with one for each label."""
        return {name: _spread(given, self.manifest.labels) for name, given in self.manifest.profiles.items()}

    @property
    def vocabulary(self) -> Path:
        return self.folder / VOCABULARY

    def weights(self) -> dict[str, Tensor]:
        """The parameters by name, on the host, mapped from the file. Raises Misconfigured: as `read_tensors`."""
        return read_tensors(self.folder / WEIGHTS)

    @cached_property
    def golden(self) -> Golden | None:
        """The golden images and answers; None for a bundle made without."""
        if GOLDEN not in self.manifest.files:
            return None
        return _read_golden(self.folder / GOLDEN, self.manifest.transform.size)


def cache_folder() -> Path:
    """`tagstream` in the user's cache folder (XDG_CACHE_HOME, or else ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tagstream"


def compact_folder(cache_dir: Path | None = None) -> Path:
    """The compact bundle's folder, by default in `cache_folder`."""
    return (cache_dir or cache_folder()) / f"compact-{EDITION}"


def pinned(bundle: Bundle, digest: str, setting: str) -> Bundle:
    """Return the bundle if its digest and files are as pinned.

    An empty digest allows any bundle, and reads no files. Raises Misconfigured: it is another bundle, or a file was
    changed.
    """
    require_pinned(bundle, digest, setting)
    if digest:
        bundle.verify()
    return bundle


def require_pinned(bundle: Bundle, digest: str, setting: str) -> None:
    """As `pinned`, by the manifest only: the files are not read. Raises Misconfigured: it is another bundle."""
    if digest and bundle.digest != digest:
        raise Misconfigured(
            f"{bundle.folder} has the digest {bundle.digest}, and {setting} wants {digest}: "
            "another model than the pinned one. Use the pinned model, or pin this one."
        )


def list_bundles(folder: Path) -> list[Bundle | Misconfigured]:
    """The bundle in `folder`, or those below it by name; one that does not open is its error instead."""
    found: list[Bundle | Misconfigured] = []
    for manifest in sorted(folder.glob(MANIFEST)) or sorted(folder.glob(f"*/{MANIFEST}")):
        if manifest.parent != folder and manifest.parent.name.startswith("."):
            continue  # being written
        try:
            found.append(Bundle.open(manifest.parent))
        except Misconfigured as error:
            found.append(error)
    return found


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(content_of(path, _MAX_MANIFEST_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        lacks = f"it has no {MANIFEST}" if folder.is_dir() else "there is no such folder"
        raise Misconfigured(
            f"{folder} is not a bundle: {lacks}. Make one with `tagstream models import`, or `tagstream models pull`."
        ) from None
    except OSError as error:
        raise Misconfigured(f"{path} can't be read: {error.strerror}.") from error
    except ValidationError as error:
        raise _no_manifest(path, error) from None


def _no_manifest(path: Path, error: ValidationError) -> Misconfigured:
    first = error.errors()[0]
    where = ".".join(str(part)[:100] for part in first["loc"]) or "the document"
    return Misconfigured(f"{path} is not a manifest that this version reads: {where}: {first['msg']}.")


def _check_files(bundle: Bundle) -> None:
    needed = [WEIGHTS, *([LABELS] if bundle.manifest.labels else []), *map(_translated, bundle.manifest.languages)]
    for name in needed:
        if name not in bundle.manifest.files:
            raise Misconfigured(f"{bundle.folder / MANIFEST} does not list {name}; import the model again.")
    for name, facts in bundle.manifest.files.items():
        path = bundle.folder / name
        if not path.is_file():
            raise Misconfigured(f"{path} is missing; copy the bundle again as a whole.")
        if name != WEIGHTS and facts.bytes > _MAX_FILE_BYTES:
            raise Misconfigured(f"{path} has {facts.bytes:,} bytes; only weights have more than {_MAX_FILE_BYTES:,}.")
        _check_place(bundle, path, facts)
        if name != WEIGHTS:
            _check_content(bundle, name, facts)


def _check_place(bundle: Bundle, path: Path, facts: FileFacts) -> None:
    if not path.resolve().is_relative_to(bundle.folder.resolve()):
        raise Misconfigured(f"{path} is a link out of the bundle; copy the file itself into it.")
    if path.stat().st_size != facts.bytes:
        raise Misconfigured(
            f"{path} has {path.stat().st_size:,} bytes where {facts.bytes:,} belong: "
            "cut short or changed; copy the bundle again."
        )


def _check_content(bundle: Bundle, name: str, facts: FileFacts) -> None:
    path = bundle.folder / name
    found = sha256_of(path)
    if found != facts.sha256:
        raise Misconfigured(
            f"{path} is not the bundle's original file (sha256 {found[:12]}… "
            f"instead of {facts.sha256[:12]}…); copy the bundle again."
        )


def _check_lengths(bundle: Bundle) -> None:
    manifest = bundle.manifest
    lists = {LABELS: bundle.labels} | {_translated(lang): names for lang, names in bundle.translations.items()}
    rows = {"thresholds": manifest.thresholds} | {f"profile {k}": v for k, v in manifest.profiles.items()}
    lengths = {name: len(names) for name, names in lists.items()}
    lengths |= {name: len(row) for name, row in rows.items() if isinstance(row, tuple)}
    if PARENTS in manifest.files:
        lengths[PARENTS] = len(bundle.parents)
    for name, length in lengths.items():
        if length != manifest.labels:
            raise Misconfigured(f"{bundle.folder}: {name} has {length:,} entries for {manifest.labels:,} labels.")


def _lists(labels: Sequence[str], translations: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    lists = {LABELS: labels} if labels else {}
    lists |= {_translated(language): names for language, names in translations.items()}
    for name, lines in lists.items():
        if any("\n" in line or not line for line in lines):
            raise Misconfigured(f"{name}: a label's name is empty or has a line break.")
        if any(CONTROLS.search(line) for line in lines):
            raise Misconfigured(f"{name}: a label's name has control characters (a carriage return, a tab, …).")
    return lists


def _seal(folder: Path, manifest: Manifest) -> Bundle:
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for its owner alone
    paths = [path for path in sorted(folder.iterdir()) if path.name != MANIFEST]
    files = {path.name: FileFacts(bytes=path.stat().st_size, sha256=sha256_of(path)) for path in paths}
    beside = {name: files.pop(name) for name in BESIDE if name in files}
    provenance = manifest.provenance.model_copy(update={"beside": beside})
    try:
        sealed = Manifest.model_validate({**dict(manifest), "provenance": provenance, "files": files, "digest": ""})
    except ValidationError as error:
        raise _no_manifest(folder / MANIFEST, error) from None
    sealed = sealed.model_copy(update={"digest": digest_of(sealed)})
    document = sealed.model_dump(mode="json")
    (folder / MANIFEST).write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return Bundle.open(folder)


def _move(scratch: Path, folder: Path, replace_existing: bool) -> None:
    if replace_existing and folder.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        os.rename(folder, aside / "old")
        os.rename(scratch, folder)
        shutil.rmtree(aside, ignore_errors=True)
        return
    try:
        os.rename(scratch, folder)  # fails unless the target is absent or an empty folder
    except OSError as error:
        raise Misconfigured(f"{folder} exists already ({error.strerror}); remove it or choose another name.") from error


def _translated(language: str) -> str:
    return f"tags.{language}.txt"


def _lines(path: Path) -> tuple[str, ...]:
    """Names, split at line feeds only: they may hold blanks at their ends, but no control characters.

    Raises Misconfigured: no text in UTF-8, too many names, or one that would be read as a command by a terminal.
    """
    text = text_of(path, _MAX_FILE_BYTES)
    if text.count("\n") > MAX_LABELS:
        raise Misconfigured(f"{path} has more than {MAX_LABELS:,} lines.")
    names = tuple(text.removesuffix("\n").split("\n"))
    for number, name in enumerate(names, 1):
        if CONTROLS.search(name):
            raise Misconfigured(f"{path}, line {number}: a name with control characters (a carriage return, a tab, …).")
    return names


def _spread(given: Thresholds, labels: int) -> tuple[float, ...]:
    return given if isinstance(given, tuple) else (given,) * labels


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file by name, mapped on the host.

    Raises Misconfigured: the file is damaged where it says what it holds.
    """
    from safetensors.torch import load_file  # torch takes seconds to import, and listing bundles does not need it

    with reading_safetensors(path):
        return load_file(path)


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    from safetensors import safe_open

    with reading_safetensors(path), safe_open(path, "numpy") as file:
        return file.metadata() or {}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file."""
    from safetensors.torch import save_file

    with disk_faults(path):
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _write_golden(path: Path, golden: Golden) -> None:
    from safetensors.numpy import save_file

    texts = {"guides": json.dumps(golden.guides), "captions": json.dumps(golden.captions)}
    with disk_faults(path):
        save_file({"pixels": golden.pixels, "outputs": golden.outputs}, path, metadata=texts)


def _read_golden(path: Path, side: int) -> Golden:
    """Golden answers to images of this side. Raises Misconfigured: not images of this side."""
    from safetensors import safe_open

    with reading_safetensors(path), safe_open(path, framework="numpy") as file:
        texts = file.metadata() or {}
        golden = Golden(
            pixels=file.get_tensor("pixels"),
            outputs=file.get_tensor("outputs"),
            guides=_texts(texts.get("guides", "[]")),
            captions=_texts(texts.get("captions", "[]")),
        )
        images, rows = golden.pixels, golden.outputs
        count = len(images) if images.ndim else 0
        if not count or images.dtype != np.uint8 or images.shape != (count, side, side, 3):
            raise ValueError(f"images of {images.dtype} and the shape {images.shape} for a side of {side}")
        if rows.ndim != 2 or len(rows) != count or rows.dtype != np.float32 or not np.isfinite(rows).all():
            raise ValueError(f"outputs of {rows.dtype} and the shape {rows.shape}, or not numbers")
        if any(len(each) not in (0, count) for each in (golden.guides, golden.captions)):
            raise ValueError("not a guide and a caption for each image")
        return golden


def _texts(document: str) -> tuple[str, ...]:
    """Parse a list of texts. Raises ValueError."""
    texts = from_json(document)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("guides or captions that are no texts")
    return tuple(texts)
