"""From annotations to a training set, by the command line."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from tagstream_testing.memory import MemoryObjectStore
from tagstream_train.data.formats import Request, open_source
from tagstream_train.data.importer import import_dataset
from tagstream_train.data.samples import DataSet
from tests.support.command import Tagstream
from training.tests.unit.pictures import png, shades
from workers.cli.app import run_command


@pytest.fixture(autouse=True)
def _no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAGSTREAM_S3_ENDPOINT", raising=False)


def write(path: Path, body: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    write(folder / "dog/1.png", png(1))
    write(folder / "cat/2.png", png(2))
    write(folder / "cat/same as 1.png", png(1))
    write(folder / "cat/bad.jpg", b"no image")
    return folder


def test_images_become_samples_with_hashes_and_equal_ones_are_joined(
    photos: Path, tmp_path: Path, tagstream: Tagstream
) -> None:
    out = tmp_path / "set"
    captured = tagstream("train", "import", photos, "-o", out)
    dataset = DataSet(out)
    found = {sample.sha256: [dataset.labels[label] for label in sample.tags] for sample in dataset}
    assert found == {hashlib.sha256(png(1)).hexdigest(): ["cat", "dog"], hashlib.sha256(png(2)).hexdigest(): ["cat"]}
    assert all((out / sample.image).is_file() for sample in dataset)
    assert (out / "skipped.txt").read_text().startswith("cat/bad.jpg\tnot-an-image: ")
    assert captured.done == f"{out}: 2 images, 2 labels\n"
    assert "is read as folders" in captured.err
    assert "note: 1 image came again, under the same name or another; the tags were joined\n" in captured.err
    assert "note: 1 image can't be used (" in captured.err


def test_the_result_as_json(photos: Path, tmp_path: Path, tagstream: Tagstream) -> None:
    document = tagstream("train", "import", photos, "-o", tmp_path / "set", "--json").json
    assert (document["images"], document["labels"], document["merged"], len(document["skipped"])) == (2, 2, 1, 1)


def test_tags_and_captions_of_two_files_are_joined(tmp_path: Path) -> None:
    write(tmp_path / "images/a.png", png(1))
    image = {"id": 1, "file_name": "a.png"}
    for name, annotation, categories in (
        ("instances", {"image_id": 1, "category_id": 3}, [{"id": 3, "name": "dog"}]),
        ("more", {"image_id": 1, "category_id": 3}, [{"id": 3, "name": "ball"}]),
        ("captions", {"image_id": 1, "caption": "a dog"}, []),
    ):
        document = {"images": [image], "annotations": [annotation], "categories": categories}
        write(tmp_path / f"{name}.json", json.dumps(document).encode())
    files = [str(tmp_path / f"{name}.json") for name in ("instances", "more", "captions")]
    assert run_command(["train", "import", *files, "-o", str(tmp_path / "set")]) == 0
    (sample,) = DataSet(tmp_path / "set")
    assert (sample.tags, sample.captions, DataSet(tmp_path / "set").labels) == ((0, 1), ("a dog",), ("dog", "ball"))


def test_two_images_of_one_name_are_both_kept(tmp_path: Path) -> None:
    sources = []
    for number in (1, 2):
        write(tmp_path / f"{number}/dog/a.png", png(number))
        sources.append(open_source(Request(tmp_path / str(number))))
    dataset = import_dataset(sources, tmp_path / "set").dataset
    assert len({(tmp_path / "set" / sample.image).read_bytes() for sample in dataset}) == 2


def test_images_in_a_bucket_stay_there(tmp_path: Path) -> None:
    store = MemoryObjectStore()
    store.put("photos", "a dog.png", png(1))
    table = write(tmp_path / "t.csv", b"image,tags\ns3://photos/a dog.png,dog\ns3://photos/gone.png,dog\n")
    imported = import_dataset([open_source(Request(table))], tmp_path / "set", store=store)
    (sample,) = imported.dataset
    assert (sample.image, sample.sha256) == ("s3://photos/a dog.png", hashlib.sha256(png(1)).hexdigest())
    assert imported.skipped == {"s3://photos/gone.png": "there is no such object"}


def test_files_are_not_stored_twice(photos: Path, tmp_path: Path) -> None:
    dataset = import_dataset([open_source(Request(photos))], tmp_path / "set").dataset
    for sample in dataset:
        assert os.stat(dataset.folder / sample.image).st_nlink == 2


def test_no_file_from_outside_comes_into_a_set(tmp_path: Path) -> None:
    write(tmp_path / "secret.png", png(1))
    inside = write(tmp_path / "in/good.png", png(2)).parent
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    table = write(inside / "t.csv", b"image,tags\n../secret.png,a\nlink.png,a\n/etc/hostname,a\ngood.png,a\n")
    imported = import_dataset([open_source(Request(table))], tmp_path / "set")
    assert [sample.sha256 for sample in imported.dataset] == [hashlib.sha256(png(2)).hexdigest()]
    assert set(imported.skipped) == {"../secret.png", "link.png", "/etc/hostname"}


def test_where_no_image_is_found_the_option_is_named(tmp_path: Path, tagstream: Tagstream) -> None:
    table = write(tmp_path / "t.csv", b"image,tags\na.png,dog\n")
    assert "Say where they are with --images." in tagstream("train", "import", table, "-o", tmp_path / "set").fails()
    assert not (tmp_path / "set/dataset.json").exists()


def test_a_folder_that_is_there_is_left_alone(photos: Path, tagstream: Tagstream) -> None:
    assert "exists already" in tagstream("train", "import", photos, "-o", photos).fails()


def test_a_set_is_split_into_sets_without_a_common_image(tmp_path: Path, tagstream: Tagstream) -> None:
    shades(tmp_path / "set", 40)
    arguments = ["train", "split", tmp_path / "set", "-o", tmp_path / "parts", "--val", "0.3", "--test", "0"]
    assert len(tagstream(*arguments).done.splitlines()) == 2
    parts = [list(DataSet(tmp_path / "parts" / part)) for part in ("train", "val")]
    assert len(parts[0]) + len(parts[1]) == 40
    assert not {sample.sha256 for sample in parts[0]} & {sample.sha256 for sample in parts[1]}
    assert all((tmp_path / "parts/val" / sample.image).is_file() for sample in parts[1])
    assert not (tmp_path / "parts/test").exists()


def test_a_set_with_an_image_that_is_missing_is_not_split(tmp_path: Path, tagstream: Tagstream) -> None:
    shades(tmp_path / "set", 40)
    (tmp_path / "set/images/007.png").unlink()
    said = tagstream("train", "split", tmp_path / "set", "-o", tmp_path / "parts").fails()
    assert "images/007.png can't be copied" in said


@pytest.mark.parametrize(
    "members",
    [("a.png", "a.png/b.png"), ("a.png/b.png", "a.png"), (f"{'a' * 250}.png", "b.png"), (f"{'a' * 300}.png", "b.png")],
)
def test_members_with_names_that_clash_in_a_folder_are_imported(tmp_path: Path, members: tuple[str, ...]) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for number, name in enumerate(members):
            member = tarfile.TarInfo(name)
            member.size = len(png(number))
            tar.addfile(member, io.BytesIO(png(number)))
    imported = import_dataset([open_source(Request(tmp_path / "s.tar"))], tmp_path / "set")
    assert not imported.skipped
    hashes = {
        hashlib.sha256((tmp_path / "set" / sample.image).read_bytes()).hexdigest()
        for sample in DataSet(tmp_path / "set")
    }
    assert hashes == {hashlib.sha256(png(number)).hexdigest() for number in range(len(members))}


def test_an_image_with_a_name_that_is_not_utf8_is_skipped_and_named(tmp_path: Path, tagstream: Tagstream) -> None:
    write(tmp_path / "photos/cat/good.png", png(1))
    write(tmp_path / os.fsdecode(b"photos/cat/\xff.png"), png(2))
    assert "Traceback" not in tagstream("train", "import", tmp_path / "photos", "-o", tmp_path / "set").notes
    assert len(DataSet(tmp_path / "set")) == 1
    assert (tmp_path / "set/skipped.txt").read_text().startswith("cat/\\udcff.png\t")


def test_a_pipe_in_the_place_of_an_image_is_skipped(tmp_path: Path) -> None:
    write(tmp_path / "photos/cat/good.png", png(1))
    os.mkfifo(tmp_path / "photos/cat/pipe.png")
    os.mkfifo(tmp_path / "photos/cat/shard.tar")
    table = write(tmp_path / "photos/all.csv", b"image,tags\ncat/good.png,a\ncat/pipe.png,a\ncat/shard.tar/1.png,a\n")
    imported = import_dataset([open_source(Request(table))], tmp_path / "set")
    assert imported.skipped.keys() == {"cat/pipe.png", "cat/shard.tar/1.png"}


@pytest.mark.parametrize("label", ["two\nlines", "two\x85lines", "\x1b[2J", os.fsdecode(b"\xff")])
def test_a_label_that_is_no_line_is_named_before_an_image_is_read(
    tmp_path: Path, tagstream: Tagstream, label: str
) -> None:
    write(tmp_path / "photos" / label / "1.png", png(1))
    assert "a label is called" in tagstream("train", "import", tmp_path / "photos", "-o", tmp_path / "set").fails()
    assert not (tmp_path / "set").exists()


def test_a_label_may_hold_characters_that_only_python_takes_for_the_end_of_a_line(tmp_path: Path) -> None:
    write(tmp_path / "photos/one\u2028label/1.png", png(1))
    imported = import_dataset([open_source(Request(tmp_path / "photos"))], tmp_path / "set")
    assert imported.dataset.labels == ("one\u2028label",)
