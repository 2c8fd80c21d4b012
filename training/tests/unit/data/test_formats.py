"""Annotations in every format: their samples, and the errors of unreadable ones."""

import contextlib
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tagstream_train.data.formats import FORMATS, Found, Request, Source, open_source
from tagstream_train.data.samples import Sample, write_dataset
from tagstream_train.evaluate import open_data
from tests.support.growth import LINEAR, growth
from workers.errors import Misconfigured


def file(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def images(folder: Path, *names: str) -> None:
    for name in names:
        file(folder / name, "an image")


def read(path: Path, **options: Any) -> Source:
    return open_source(Request(path, **options))


def tags(source: Source) -> dict[str, list[str]]:
    return {found.image: [source.labels[label] for label in found.tags] for found in source.items}


# class folders


def test_the_folder_of_an_image_is_its_tag(tmp_path: Path) -> None:
    images(tmp_path, "dog/a.jpg", "cat/b.PNG", "cat/.hidden.jpg", ".git/c.jpg", "cat/notes.txt", "loose.jpg")
    source = read(tmp_path)
    assert (source.format, source.labels) == ("folders", ("cat", "dog"))
    assert tags(source) == {"cat/b.PNG": ["cat"], "dog/a.jpg": ["dog"]}


def test_in_nested_folders_the_innermost_counts(tmp_path: Path) -> None:
    images(tmp_path, "animals/dog/a.jpg", "animals/cat/b.jpg")
    assert tags(read(tmp_path)) == {"animals/cat/b.jpg": ["cat"], "animals/dog/a.jpg": ["dog"]}


def test_folders_train_val_and_test_are_parts_unless_there_are_others(tmp_path: Path) -> None:
    images(tmp_path, "train/dog/a.jpg", "validation/cat/b.jpg", "test/c.jpg", "test/dog/d.jpg")
    source = read(tmp_path)
    assert {found.image: found.part for found in source.items} == {
        "train/dog/a.jpg": "train",
        "validation/cat/b.jpg": "val",
        "test/dog/d.jpg": "test",
    }
    assert source.labels == ("cat", "dog")
    images(tmp_path, "plane/e.jpg")
    assert {found.part for found in read(tmp_path).items} == {None}
    assert "test" in read(tmp_path).labels


# tables


@pytest.mark.parametrize("separator", ["|", ";", ","])
def test_a_table_with_tags_in_a_column(tmp_path: Path, separator: str) -> None:
    rows = [
        "File,Labels,Caption,absent",
        f'a.jpg,"dog{separator} animal","a dog, on grass",cat',
        "b.jpg,cat,,",
        "",
        "c.jpg,,,",
    ]
    source = read(file(tmp_path / "photos.csv", "\r\n".join(rows)))
    assert source.labels == ("animal", "cat", "dog")
    assert list(source.items) == [
        Found("a.jpg", (0, 2), ("a dog, on grass",), absent=(1,)),
        Found("b.jpg", (1,), absent=()),
        Found("c.jpg", absent=()),
    ]


def test_a_table_with_a_column_for_each_label(tmp_path: Path) -> None:
    source = read(file(tmp_path / "photos.tsv", "image\tdog\tcat\tgrass\na.jpg\t1\t0\t\nb.jpg\t-1\ttrue\t0.0\n"))
    assert source.labels == ("cat", "dog", "grass")
    assert list(source.items) == [Found("a.jpg", (1,), absent=(0,)), Found("b.jpg", (0,), absent=(2,))]


def test_a_confidence_of_nothing_is_a_verified_absence(tmp_path: Path) -> None:
    rows = """ImageID,Source,LabelName,Confidence,Rotation
a.jpg,verification,/m/dog,1,0
a.jpg,crowdsource-verification,/m/cat,0,0
b.jpg,machine,/m/dog,0.7,0
b.jpg,machine,/m/cat,1.0,0
"""
    source = read(file(tmp_path / "image-labels.csv", rows))
    assert list(source.items) == [
        Found("a.jpg", (1,), absent=()),
        Found("a.jpg", (), absent=(0,)),
        Found("b.jpg", (), absent=()),
        Found("b.jpg", (), absent=()),
    ]
    assert [note for note in source.notes if "Rotation" in note]
    assert [note for note in source.notes if note.startswith("2 rows")]
    wrong = file(tmp_path / "wrong.csv", "image,tags,confidence\na.jpg,dog,7\n")
    with pytest.raises(Misconfigured, match="line 2: the confidence '7'"):
        list(read(wrong).items)


@pytest.mark.parametrize("columns", ["tags", "dog"])
def test_a_table_may_say_the_part_of_each_image(tmp_path: Path, columns: str) -> None:
    value = "dog" if columns == "tags" else "1"
    parts = ["train", "Validation", "test", ""]
    rows = "".join(f"{number}.jpg,{value},{part}\n" for number, part in enumerate(parts))
    source = read(file(tmp_path / "t.csv", f"image,{columns},split\n{rows}"))
    assert [found.part for found in source.items] == ["train", "val", "test", None]
    assert (source.labels, source.notes) == (("dog",), [])
    with pytest.raises(Misconfigured, match="line 2: the part 'left'"):
        list(read(file(tmp_path / "w.csv", "image,tags,split\na.jpg,dog,left\n")).items)


@pytest.mark.parametrize("columns", ["tags", "dog"])
def test_a_tables_column_of_groups_is_one_only_if_it_is_named(tmp_path: Path, columns: str) -> None:
    value = "dog" if columns == "tags" else "1"
    table = file(tmp_path / "t.csv", f"image,{columns},The Burst\na.jpg,{value}, 7 \nb.jpg,{value},\n")
    source = read(table, groups="the burst")
    assert ([found.group for found in source.items], source.labels, source.notes) == (["7", None], ("dog",), [])
    with pytest.raises(Misconfigured, match=f"no column 'video' of groups; it has image, {columns}, The Burst"):
        read(table, groups="video")
    images(tmp_path / "sorted", "dog/a.jpg")
    with pytest.raises(Misconfigured, match="read as folders"):
        read(tmp_path / "sorted", groups="the burst")


def test_a_table_finds_images_by_absolute_paths_in_buckets_and_without_suffix(tmp_path: Path) -> None:
    images(tmp_path, "images/a.jpg", "images/b.jpeg")
    rows = f"image,tag\n{tmp_path}/images/a.jpg,x\nb,x\ns3://photos/c d.jpg,x\n"
    source = read(file(tmp_path / "all.csv", rows), images=tmp_path / "images")
    assert [found.image for found in source.items] == ["a.jpg", "b.jpeg", "s3://photos/c d.jpg"]


def test_labels_that_are_given_are_the_only_ones(tmp_path: Path) -> None:
    path = file(tmp_path / "t.csv", "image,tags\na.jpg,dog\n")
    assert read(path, labels=("zebra", "dog")).labels == ("zebra", "dog")
    with pytest.raises(Misconfigured, match=r"t.csv, line 2: there is no label 'dog'. Do you mean 'dogs'"):
        list(read(path, labels=("dogs",)).items)


# COCO


COCO = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "neg_category_ids": [1]},
        {"id": 8, "file_name": "b.jpg"},
        {"id": 9, "coco_url": "http://images.cocodataset.org/val2017/c.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 90, "segmentation": [[1, 2, 3]], "bbox": [0, 0, 1, 1]},
        {"id": 2, "image_id": 7, "category_id": 90},
        {"id": 3, "image_id": 7, "caption": " A dog. "},
        {"id": 4, "image_id": 8, "segments_info": [{"category_id": 1}, {"category_id": 90}]},
    ],
    "categories": [{"id": 90, "name": "dog"}, {"id": 1, "name": "person"}],
}


def _repeated(path: Path, count: int) -> Path:
    images = [{"id": 1, "file_name": "a.jpg"}] * count
    captions = [{"image_id": 1, "caption": f"caption {number}"} for number in range(count)]
    return file(path, {"images": images, "annotations": captions})


@pytest.mark.slow
def test_an_image_that_coco_names_twice_comes_once(tmp_path: Path) -> None:
    half, whole = _repeated(tmp_path / "half.json", 4_000), _repeated(tmp_path / "whole.json", 8_000)
    [sample] = open_data(Request(whole), "coco").samples
    assert len(sample.captions) == 8_000
    assert growth(lambda: open_data(Request(half), "coco"), lambda: open_data(Request(whole), "coco")) < LINEAR


def test_no_name_is_looked_for_that_is_like_a_very_long_one(tmp_path: Path) -> None:
    classes = {"classes": ["dog" * 100], "labels": {"a": ["dog" * 99]}}
    with pytest.raises(Misconfigured, match="there is no label") as refusal:
        tags(read(file(tmp_path / "labels.json", classes)))
    assert "Do you mean" not in str(refusal.value)


def test_coco_has_tags_of_boxes_segments_and_captions(tmp_path: Path) -> None:
    images(tmp_path, "val2017/a.jpg")
    source = read(file(tmp_path / "annotations/instances_val2017.json", COCO))
    assert (source.format, source.labels, source.root) == ("coco", ("person", "dog"), tmp_path / "val2017")
    assert list(source.items) == [
        Found("a.jpg", (1,), ("A dog.",), absent=(0,)),
        Found("b.jpg", (0, 1)),
        Found("val2017/c.jpg"),
    ]


# the official programs' list


OFFICIAL = [
    {"image_path": "a.jpg", "caption": ["a dog", "dogs"], "parse_label_id": [[1], [0, 1]], "union_label_id": [2]},
    {"image_path": "b.jpg", "caption": "a cat"},
]


def test_the_official_list_keeps_each_captions_parsed_tags(tmp_path: Path) -> None:
    source = read(file(tmp_path / "coco_train.json", OFFICIAL), labels=("two", "dog", "grass"))
    assert source.format == "official"
    assert list(source.items) == [
        Found("a.jpg", (0, 1, 2), ("a dog", "dogs"), ((1,), (0, 1))),
        Found("b.jpg", captions=("a cat",)),
    ]


# FiftyOne


KARPATHY = [
    {"image": "a.jpg", "caption": "a dog", "image_id": "coco_1"},
    {"image": "b.jpg", "caption": ["a cat ", "a cat"]},
    {"image": "a.jpg", "caption": "grass", "image_id": "coco_1"},
]
SENTENCES = {"images": [
    {"filepath": "val2014", "filename": "a.jpg", "split": "restval", "sentences": [{"raw": "a dog"}, {"raw": "grass"}]},
    {"filename": "b.jpg", "split": "test", "sentences": []},
], "dataset": "coco"}  # fmt: skip


def test_karpathys_lists_have_captions_of_each_image(tmp_path: Path) -> None:
    images(tmp_path / "images", "a.jpg")
    source = read(file(tmp_path / "test.json", KARPATHY))
    assert (source.format, source.root) == ("karpathy", tmp_path / "images")
    assert list(source.items) == [
        Found("a.jpg", captions=("a dog", "grass")),
        Found("b.jpg", captions=("a cat", "a cat")),
    ], "a measured image has all its captions, equal ones too"


def test_karpathys_own_file_has_parts_too(tmp_path: Path) -> None:
    source = read(file(tmp_path / "dataset_coco.json", SENTENCES))
    assert source.format == "karpathy"
    assert list(source.items) == [
        Found("val2014/a.jpg", captions=("a dog", "grass"), part="train"),
        Found("b.jpg", part="test"),
    ]


@pytest.mark.slow
def test_many_captions_of_one_image_take_time_in_proportion(tmp_path: Path) -> None:
    half, whole = (
        file(tmp_path / f"{count}.json", [{"image": "a.jpg", "caption": str(n)} for n in range(count)])
        for count in (20_000, 40_000)
    )
    assert growth(lambda: list(read(half).items), lambda: list(read(whole).items)) < LINEAR


def test_fiftyones_own_export_has_the_labels_of_every_field(tmp_path: Path) -> None:
    images(tmp_path, "data/a.jpg")
    sample = {
        "filepath": "data/a.jpg",
        "tags": ["train"],
        "metadata": None,
        "weather": {"_cls": "Classification", "label": "sunny"},
        "scene": {"_cls": "Classifications", "classifications": [{"label": "park"}, {"label": None}]},
        "truth": {"_cls": "Detections", "detections": [{"label": "dog", "bounding_box": [0, 0, 1, 1]}]},
    }
    file(tmp_path / "metadata.json", {"name": "x"})
    file(tmp_path / "samples.json", {"samples": [sample, {"filepath": "data/b.jpg"}]})
    assert tags(read(tmp_path)) == {"data/a.jpg": ["dog", "park", "sunny"], "data/b.jpg": []}


def test_fiftyones_classifications_and_detections(tmp_path: Path) -> None:
    images(tmp_path, "data/a.jpg", "data/deep/b.png")
    labels = {"a": 1, "deep/b": ["cat", {"label": "dog"}], "c": None}
    file(tmp_path / "labels.json", {"classes": ["dog", "cat"], "labels": labels})
    source = read(tmp_path)
    assert source.labels == ("dog", "cat")
    assert tags(source) == {"a.jpg": ["cat"], "deep/b.png": ["dog", "cat"], "c": []}


# Label Studio


def task(image: str, *results: tuple[str, Sequence[str]], cancelled: bool = False) -> dict[str, Any]:
    inner = [{"type": kind, "value": {"text" if kind == "textarea" else kind: list(value)}} for kind, value in results]
    return {"id": 1, "data": {"image": image}, "annotations": [{"result": inner, "was_cancelled": cancelled}]}


def test_label_studio_has_choices_regions_and_texts(tmp_path: Path) -> None:
    images(tmp_path, "images/1a-dog.jpg", "images/deep/x y.jpg")
    tasks = [
        task(
            "/data/upload/3/1a-dog.jpg", ("choices", ["dog"]), ("rectanglelabels", ["ball"]), ("textarea", ["A dog."])
        ),
        task("/data/local-files/?d=deep/x%20y.jpg", ("choices", ["cat"])),
        task("s3://photos/c.jpg", ("choices", ["cat"]), cancelled=True),
    ]
    source = read(file(tmp_path / "project-1.json", tasks), images=tmp_path / "images")
    assert source.labels == ("ball", "cat", "dog")
    assert list(source.items) == [
        Found("1a-dog.jpg", (0, 2), ("A dog.",)),
        Found("deep/x y.jpg", (1,)),
        Found("s3://photos/c.jpg"),
    ]


# the official evaluation files


def test_openimages_lists_names_of_files_without_their_suffix(tmp_path: Path) -> None:
    images(tmp_path, "imgs/test/000a.jpg")
    file(tmp_path / "common_ram_taglist.txt", "dog\nfast food\n3\n")
    path = file(tmp_path / "common_ram_annots.txt", "test/000a,dog,fast food\ntest/000b\ntest/000c,3\n")
    source = read(path, images=tmp_path / "imgs")
    assert tags(source) == {"test/000a.jpg": ["dog", "fast food"], "test/000b.jpg": [], "test/000c.jpg": ["3"]}


def test_imagenet_multi_lists_ids_between_blanks_of_names_that_repeat(tmp_path: Path) -> None:
    file(tmp_path / "imagenet_multi_1000_taglist.txt", "tench\nmissile\nmissile\n")
    annotations = "ILSVRC2012_val_00000001.JPEG,0 2\nILSVRC2012_val_00000002.JPEG\n"
    source = read(file(tmp_path / "imagenet_multi_1000_annots.txt", annotations))
    assert [(found.image[-8:], found.tags) for found in source.items] == [("001.JPEG", (0, 2)), ("002.JPEG", ())]


# a set of our own


def test_a_set_of_our_own_is_read_under_other_labels(tmp_path: Path) -> None:
    sample = Sample(image="images/a.jpg", captions=("x",), caption_tags=((0,),), tags=(0,), absent=(1,))
    write_dataset(tmp_path, [sample], ["dog", "cat"], name="one")
    source = read(tmp_path, labels=("cat", "bird", "dog"))
    assert list(source.items) == [Found("images/a.jpg", (2,), ("x",), ((2,),), (0,))]


# unreadable images


def changed(document: Any, change: Callable[[Any], object]) -> Any:
    change(copy := deepcopy(document))
    return copy


ONE_ID = [{"id": 1, "file_name": name} for name in ("a.jpg", "a.jpg", "b.jpg")]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("t.csv", "", "t.csv is empty"),
        ("t.csv", "name,age\n", "none of its columns"),
        ("t.csv", "image,tags\na.jpg\n", "line 2: 1 cells under 2 columns"),
        ("t.csv", 'image,tags\n"a.jpg,dog\n', "line 2: unexpected end of data"),
        ("t.csv", "image,dog\na.jpg,1\nb.jpg,yes\n", "line 3: 'yes' stands under a label"),
        ("t.csv", "image,tags\n,dog\n", "line 2: no image is named"),
        ("t.csv", "image,tags\n" + "a" * 1_000_001, "line 2: more than 1,000,000 bytes"),
        ("t.csv", "image,tags\n" + "a" * 200_000 + ",b\n", "line 2: field larger than field limit"),
        ("t.json", "[", "The format of"),
        ("t.json", "{", "The format of"),
        ("t.json", '{"images": [', "t.json: Invalid JSON: EOF while parsing"),
        (
            "t.json",
            changed(COCO, lambda it: it["annotations"][1].update(category_id=5)),
            r"annotations.1: .* category 5",
        ),
        ("t.json", changed(COCO, lambda it: it["annotations"][1].update(image_id=5)), r"annotations.1: .* no image 5"),
        ("t.json", changed(COCO, lambda it: it["images"][0].pop("id")), "images.0.id: Field required"),
        ("t.json", changed(COCO, lambda it: it["images"][1].pop("file_name")), "images.1: it has no file_name"),
        ("t.json", {**COCO, "images": ONE_ID, "annotations": []}, r"images\.2: images\.0 has the same id, 1\."),
        ("coco_train.json", OFFICIAL, "say what they mean with --labels"),
        ("labels.json", {"classes": ["dog"], "labels": {"a": 1}}, r"labels\.a: label 1, and there are 1 classes"),
        ("t.json", '{"samples": [{"x": 1}]}', "samples.0: it has no filepath"),
        (
            "t.json",
            '{"samples": [{"filepath": "a", "x": {"_cls": "Classification", "label": 3}}]}',
            "samples.0: a label is '3'",
        ),
        ("t.json", '[{"data": {"image": "https://x/y.jpg"}}]', "must be downloaded first"),
        ("t.json", '[{"data": {"image": "//[x/y.jpg"}}]', "neither a path nor an address"),
        ("t.json", '[{"data": {"image": 3}}]', "t.json, 0: its data name no image"),
        (
            "t.json",
            '[{"data": {"image": "a"}, "annotations": [{"result": [{"type": "choices", "value": {"choices": 3}}]}]}]',
            "t.json, 0: the choices of a result must be a list",
        ),
        (
            "t.json",
            changed(KARPATHY, lambda it: it[1].update(caption=[3])),
            "1.caption.0: Input should be a valid string",
        ),
        ("t.json", changed(KARPATHY, lambda it: it[2].pop("image")), "2.image: Field required"),
        ("t.json", changed(SENTENCES, lambda it: it["images"][1].update(split="x")), r"images\.1\.split: Input"),
        ("t.txt", "a,b\n", "comes with a list of its labels"),
        ("t.xml", "<a/>", "The format of"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(
    tmp_path: Path, name: str, content: object, complaint: str
) -> None:
    with pytest.raises(Misconfigured, match=complaint):
        list(read(file(tmp_path / name, content)).items)


def test_an_official_list_with_a_wrong_id_is_named(tmp_path: Path) -> None:
    path = file(tmp_path / "t.json", OFFICIAL)
    with pytest.raises(Misconfigured, match=r"t.json, 0: label 2, and there are 2 labels \(from 0\)"):
        list(read(path, labels=("a", "b")).items)


def test_a_format_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"'cocoa' is no format; they are .* Do you mean 'coco'"):
        open_source(Request(tmp_path), "cocoa")
    with pytest.raises(Misconfigured, match="does not exist"):
        read(tmp_path / "no")


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_no_format_ends_in_another_error_than_a_sentence(tmp_path: Path, format: str) -> None:  # noqa: A002
    paths = [tmp_path]
    for number, content in enumerate(("", "[]", "{}", "[[]]", "[1]", '{"images": 1}', "a,b\n1,2", "\0\xff", '"x"')):
        paths.append(file(tmp_path / f"{number}.txt", content))
    for path in paths:
        with contextlib.suppress(Misconfigured):
            list(open_source(Request(path, labels=("a",)), format).items)


def test_an_image_that_can_not_stand_in_a_set_is_named(tmp_path: Path) -> None:
    file(tmp_path / "a.csv", f"image,tags\n{'x' * 5000},dog\n")
    with pytest.raises(Misconfigured, match="x: image: String should have at most"):
        open_data(Request(tmp_path / "a.csv"))
