"""What training reads: annotations in every format, lines of a training set, and shards."""

import io
import json
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tagstream_train.data.formats import FORMATS, Request, open_source
from tagstream_train.data.images import BadImage, Images
from tagstream_train.data.samples import HEADER, LABELS, SAMPLES, DataSet, Sample, write_dataset
from tagstream_train.data.shards import MAX_NAME_BYTES, PlainFile, plain_files
from tests.fuzz import mutators
from tests.fuzz.fuzzer import Bounds, Target, sentence
from tests.fuzz.mutators import Parts
from tests.fuzz.targets.files import Folder
from workers.errors import Misconfigured

_folder = Folder()

_COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "neg_category_ids": [2]}, {"id": "x", "file_name": "b.jpg"}],
    "annotations": [{"image_id": 1, "category_id": 1}, {"image_id": "x", "segments_info": [{"category_id": 2}]},
                    {"image_id": 1, "caption": "a dog"}],
    "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
}  # fmt: skip
_OFFICIAL = [{"image_path": "a.jpg", "caption": ["x", "y"], "parse_label_id": [[0], []], "union_label_id": [0]}]
_FIFTYONE = {"samples": [{"filepath": "a.jpg", "x": {"_cls": "Detections", "detections": [{"label": "dog"}]}}]}
_CLASSES = {"classes": ["dog"], "labels": {"a": 0, "b": ["dog"], "c": {"label": "dog"}}}
_KARPATHY = [{"image": "a.jpg", "caption": "x", "image_id": "1"}, {"image": "b.jpg", "caption": ["x", "y"]}]
_SENTENCES = {"images": [{"filepath": "v", "filename": "a.jpg", "split": "test", "sentences": [{"raw": "x"}]}]}
_STUDIO = [
    {"data": {"image": "/data/local-files/?d=a%20b.jpg"}, "annotations": [
        {"result": [{"type": "choices", "value": {"choices": ["dog"]}}, {"type": "textarea", "value": {"text": "x"}}]}
    ]}
]  # fmt: skip


def annotated() -> Iterator[Parts]:
    """The format's name, the file's name, and the file."""
    for name, document in (
        ("coco", _COCO),
        ("official", _OFFICIAL),
        ("fiftyone", _FIFTYONE),
        ("label-studio", _STUDIO),
        ("karpathy", _KARPATHY),
        ("karpathy", _SENTENCES),
    ):
        yield (name.encode(), b"samples.json", json.dumps(document).encode())
    yield (b"fiftyone", b"labels.json", json.dumps(_CLASSES).encode())
    yield (b"csv", b"t.csv", b'image,tags,caption,absent\na.jpg,"dog|cat","a, b",\n/x/b.jpg,,,dog\n')
    yield (b"csv", b"t.csv", b"image\tdog\tcat\ns3://a/b.jpg\t1\t0\nb.jpg\t\t-1\n")
    yield (b"annotation-list", b"t.txt", b"test/a,dog,cat\nb.JPEG,0 1\nc\n")
    yield (b"webdataset", b"t.tar", _tar({"a.jpg": b"x", "a.json": b'{"tags": ["dog"]}', "a.cls": b"1", "a.txt": b"y"}))


def read(parts: Parts) -> str:
    """Annotations are read, or refused with a sentence; every label id has a name."""
    name, file = (part.decode("utf-8", "replace") for part in (*parts, b"", b"")[:2])
    if name not in FORMATS or Path(file).name != file or file in ("", ".", "..") or len(file) > 100 or "\0" in file:
        return "no such format or file"
    path = _folder.fresh() / file
    path.write_bytes(parts[2] if len(parts) > 2 else b"")
    try:
        source = open_source(
            Request(path, labels=("dog", "cat") if name in ("official", "annotation-list") else None), name
        )
        found = list(source.items)
    except Misconfigured as error:
        sentence(error)
        return "refused"
    for each in found:
        ids = (*each.tags, *(each.absent or ()), *(label for row in each.caption_tags for label in row))
        assert all(0 <= label < len(source.labels) for label in ids)
        assert list(each.tags) == sorted(set(each.tags))
    return "read"


def sets() -> Iterator[Parts]:
    """The header, the labels, the samples, and a shard."""
    samples = [
        Sample(image="s.tar/1.png", captions=("x",), caption_tags=((0,),), tags=(0, 1), origins={0: "given"}),
        Sample(image="images/2.png", absent=(1,), sha256="0" * 64),
    ]
    with tempfile.TemporaryDirectory(prefix="tagstream-fuzz-") as name:
        folder = write_dataset(Path(name), samples, ["dog", "cat"], name="few").folder
        files = [(folder / each).read_bytes() for each in (HEADER, LABELS, SAMPLES)]
    yield (*files, _tar({"1.png": b"\x89PNG\r\n\x1a\n", "1.json": b"{}"}))


def opened(parts: Parts) -> str:
    """A set is read in order and by number alike; its images are read or named, and all lie inside the folder."""
    folder = _folder.fresh()
    for name, content in zip((HEADER, LABELS, SAMPLES, "s.tar"), parts, strict=False):
        (folder / name).write_bytes(content)
    (folder.parent / "secret.png").write_bytes(b"secret")
    try:
        dataset = DataSet(folder)
        samples = list(dataset)
        assert list(dataset.lines()) == samples
    except Misconfigured as error:
        sentence(error)
        return "refused"
    images = Images(folder)
    for sample in samples[:20]:
        if sample.image.startswith("s3://"):
            continue
        try:
            assert images.read(sample.image) != b"secret"
        except BadImage as bad:
            sentence(bad)
    return "opened"


def shards() -> Iterator[Parts]:
    """Tar files of every format, with long names and numbers of each kind."""
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for name in ("1.jpg", "./2.jpg", "p/" * 70 + "3.jpg", "x" * (90 if form == tarfile.USTAR_FORMAT else 300)):
                member = tarfile.TarInfo(name)
                member.size, member.mtime = 3, 1.5
                tar.addfile(member, io.BytesIO(b"abc"))
        yield (out.getvalue().rstrip(b"\0") + bytes(1024),)


def resealed(random: Random, parts: Parts) -> Parts:
    """Damaged, and most of the time with right checksums, so that what reads it gets further."""
    data = bytearray(mutators.by_bytes(random, b"".join(parts)))
    if random.random() < 0.8:
        for at in range(0, min(len(data) - 511, 200 * 512), 512):
            block = data[at : at + 512]
            block[148:156] = b" " * 8
            if data[at + 154 : at + 156] == b"\0 ":  # it was a header
                data[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    return (bytes(data),)


def headed(parts: Parts) -> str:
    """Files that lie one behind the other, with names of bounded length."""
    found: list[PlainFile] = []
    outcome = "read"
    try:
        for each in plain_files(io.BytesIO(parts[0])):
            found.append(each)
    except ValueError as error:
        sentence(error)
        outcome = "damaged"
    end = 0
    for each in found:
        assert each.start >= end + 512
        assert each.start % 512 == 0
        assert 0 <= each.size < 1 << 88
        assert len(each.name) <= MAX_NAME_BYTES
        end = each.start + each.size
    assert len(found) <= len(parts[0]) / 512
    return f"{outcome}, {min(len(found), 3)} files or more"


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return out.getvalue()


_FILES = Bounds(seconds=0.5, seconds_per_mib=16.0, mib=48.0, mib_per_mib=48.0)

TARGETS = (
    Target("annotations", annotated, read, bounds=_FILES, close=_folder.remove),
    Target("shard-headers", shards, headed, resealed),
    Target("training-sets", sets, opened, bounds=_FILES, close=_folder.remove),
)
