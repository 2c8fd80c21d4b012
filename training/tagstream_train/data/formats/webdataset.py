"""WebDataset shards of ours or of others: a file, or a folder.

An image's files share a name: `000123.jpg` with `000123.json` (our own lines; or `tags`, `labels` or `label`, and
`caption`), `000123.txt` (a caption) or `000123.cls` (a label's number, or its name).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tagstream_train.data.formats.source import SUFFIXES, Request, Said, Source, by_names
from tagstream_train.data.samples import MAX_LINE_BYTES
from tagstream_train.data.shards import BadShard, Place, Shards, plain_file
from workers.errors import Misconfigured

_DOCUMENT = TypeAdapter(dict[str, Any])


def read(request: Request) -> Source:
    path = request.path
    root = path if path.is_dir() else path.parent
    shards = sorted(each.relative_to(root) for each in (path.rglob("*.tar") if path.is_dir() else [path]))
    if not shards:
        raise Misconfigured(f"{path} has no shards (.tar).")
    reader = Shards(lambda name: plain_file(root / name))
    said = (each for shard in shards for each in _images(root, str(shard), reader))
    return by_names("webdataset", request, said, root=root)


def _images(root: Path, shard: str, reader: Shards) -> Iterator[Said]:
    beside: dict[str, dict[str, str]] = defaultdict(dict)
    try:
        for member in reader.members(shard):
            folder, _, name = member.rpartition("/")
            stem, _, suffix = name.partition(".")
            beside[f"{folder}/{stem}" if folder else stem][suffix.lower()] = member
    except BadShard as error:
        raise Misconfigured(f"{root / shard}: {error}.") from None
    for key, files in beside.items():
        where = f"{root / shard}, {key[:200]}"
        image = next((member for suffix, member in files.items() if f".{suffix}".endswith(SUFFIXES)), None)
        if image is not None:
            texts = {kind: _text(reader, Place(shard, files[kind]), where) for kind in files if kind in _KINDS}
            tags, captions = _said(texts, where)
            yield Said(f"{shard}/{image}", tags, where, captions)


_KINDS = ("json", "txt", "cls")


def _text(reader: Shards, place: Place, where: str) -> str:
    content = reader.read(place, MAX_LINE_BYTES)
    if len(content) > MAX_LINE_BYTES:
        raise Misconfigured(f"{where}: more than {MAX_LINE_BYTES:,} bytes.")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Misconfigured(f"{where}: not text in UTF-8.") from None


def _said(texts: Mapping[str, str], where: str) -> tuple[list[str], tuple[str, ...]]:
    tags: list[str] = []
    captions: list[str] = []
    if "json" in texts:
        try:
            document = _DOCUMENT.validate_json(texts["json"])
        except ValidationError as error:
            raise Misconfigured(f"{where}: {error.errors(include_url=False)[0]['msg']}.") from None
        tags += _names(document, ("tags", "labels", "label"), where)
        captions += _names(document, ("caption", "captions"), where)
    captions += [texts["txt"].strip()] if texts.get("txt", "").strip() else []
    tags += [texts["cls"].strip()] if texts.get("cls", "").strip() else []
    return tags, tuple(dict.fromkeys(captions))


def _names(document: Mapping[str, Any], keys: Sequence[str], where: str) -> list[str]:
    """Texts under the first of these keys."""
    given: Any = next((document[key] for key in keys if key in document), [])
    values: list[Any] = given if isinstance(given, list) else [given]
    if not all(isinstance(value, str) for value in values):
        raise Misconfigured(f"{where}: its {keys[0]} must be texts.")
    return values
