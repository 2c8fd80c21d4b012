"""Label Studio's JSON export: tasks with the results of their annotators.

Choices and labels of every kind of region are tags, texts are captions. An annotation that its annotator cancelled does
not count. Of several annotators, all are believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import BaseModel, Field, TypeAdapter

from tagstream_train.data.formats.source import Request, Said, Source, by_names, document, relative, with_suffix
from tagstream_train.data.samples import FAIL_FAST
from workers.errors import Misconfigured

_TEXTS = ("textarea", "text")


class _Result(BaseModel):
    type: str = ""
    value: dict[str, Any] = {}


class _TaskAnnotation(BaseModel):
    result: Annotated[list[_Result], FAIL_FAST] = []
    was_cancelled: bool = False


class _Task(BaseModel):
    data: dict[str, Any]
    annotations: Annotated[list[_TaskAnnotation], FAIL_FAST] = Field(default=[])


_TASKS = TypeAdapter(Annotated[list[_Task], FAIL_FAST])


def read(request: Request) -> Source:
    said = list(_said(request.path))
    root = request.root(_plain(each.image) for each in said)
    return by_names("label-studio", request, said, place=_placed, root=root)


def _said(path: Path) -> Iterator[Said]:
    tasks = document(path, _TASKS)
    for number, task in enumerate(tasks):
        where = f"{path}, {number}"
        results = [result for each in task.annotations if not each.was_cancelled for result in each.result]
        yield Said(_image(task, where), list(_tags(results, where)), where, tuple(_captions(results)))


def _tags(results: list[_Result], where: str) -> Iterator[str]:
    """Chosen names of a result; a `rectanglelabels` result keeps them there."""
    for result in results:
        if not result.type.endswith(("labels", "choices")):
            continue
        values = result.value.get(result.type, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise Misconfigured(f"{where}: the {result.type[:50]} of a result must be a list of names.")
        yield from values


def _captions(results: list[_Result]) -> Iterator[str]:
    for result in results:
        if result.type in _TEXTS:
            values = result.value.get("text", [])
            texts = values if isinstance(values, list) else [values]
            yield from (text.strip() for text in texts if isinstance(text, str) and text.strip())


def _image(task: _Task, where: str) -> str:
    """The image's name, from an upload's or a local file's address."""
    given = task.data.get("image") or next((value for value in task.data.values() if isinstance(value, str)), None)
    if not isinstance(given, str):
        raise Misconfigured(f"{where}: its data name no image.")
    if given.startswith("s3://"):
        return given
    if given.startswith(("http://", "https://")):
        raise Misconfigured(f"{where}: {given[:200]} must be downloaded first; export with the files, or from S3.")
    try:
        parts = urlsplit(given)
    except ValueError:  # such as brackets that do not close
        raise Misconfigured(f"{where}: its image {given[:200]!r} is neither a path nor an address.") from None
    local = parse_qs(parts.query).get("d")
    return unquote(local[0]) if local else unquote(parts.path)


def _placed(root: Path, image: str) -> str:
    """The path below the root, or the bare name."""
    if image.startswith("s3://"):
        return image
    plain = _plain(relative(root, image))
    bare = image.rpartition("/")[2]
    return plain if with_suffix(root, plain) or not with_suffix(root, bare) else bare


def _plain(image: str) -> str:
    return image.removeprefix("/data/upload/").lstrip("/")
