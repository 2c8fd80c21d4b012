"""The official evaluation files: an image and its tags a line.

    test/0a1b2c3d4e5f6789,dog,grass            OpenImages: names (or ids), between commas; files end in .jpg
    ILSVRC2012_val_00000001.JPEG,65 112        ImageNet-Multi and HICO: ids, between blanks

What the labels are is a file of its own, one a line, found beside it (`…_taglist.txt`) or given with `--labels`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tagstream_train.data.formats.source import Found, Names, Request, Source, checked, finder, lines
from workers.errors import Misconfigured


def read(request: Request) -> Source:
    labels = request.labels or _labels_beside(request.path)
    names = Names(labels)
    root = request.root(line.partition(",")[0] for _, line in lines(request.path))
    return Source("annotation-list", root, labels, _items(request.path, root, names))


def _items(path: Path, root: Path, names: Names) -> Iterator[Found]:
    find = finder(root)
    for number, line in lines(path):
        if not line.strip():
            continue
        name, _, rest = line.partition(",")
        tags = _ids(rest, names, f"{path}, line {number}")
        yield Found(find(name) or f"{name}{'' if '.' in name else '.jpg'}", tags)


def _ids(rest: str, names: Names, where: str) -> tuple[int, ...]:
    words = [word.strip() for word in rest.split(",") if word.strip()]
    numbers = rest.replace(",", " ").split()
    if all(word.isascii() and word.isdigit() for word in numbers) and not set(words) <= set(names.labels):
        return checked(map(int, numbers), names.labels, where)
    return names.ids(words, where)


def _labels_beside(path: Path) -> tuple[str, ...]:
    """The official label list beside such a file."""
    stem = path.name.replace("annots.txt", "")
    for name in (f"{stem}taglist.txt", f"{stem}tagidlist.txt"):
        if stem != path.name and (path.parent / name).is_file():
            return tuple(line for _, line in lines(path.parent / name) if line.strip())
    raise Misconfigured(f"{path} comes with a list of its labels; give it with --labels FILE, one name a line.")
