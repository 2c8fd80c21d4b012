"""Lists of a million faults in files of others: the first is enough, and each would take hundreds of bytes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from schemas.correction import Correction
from tagstream_train.data.formats import coco, fiftyone, label_studio, official
from tagstream_train.data.samples import Header, Sample
from tagstream_train.learned import Learned
from workers.capacity.profile import MachineProfile
from workers.models.manifest import Manifest

BAD = b"[" + b",".join([b"{}"] * 1_000) + b"]"


@pytest.mark.parametrize(
    ("kind", "field", "ends"),
    [
        (Manifest, b'"thresholds":', b""),
        (Manifest, b'"languages":', b""),
        (Manifest, b'"profiles":{"a":', b"}"),
        (Header, b'"steps":', b""),
        (Sample, b'"caption":', b""),
        (Sample, b'"parse_label_id":', b""),
        (Sample, b'"parse_label_id":[[0],', b"]"),
        (Sample, b'"union_label_id":', b""),
        (Sample, b'"absent_label_id":', b""),
        (MachineProfile, b'"decoded":', b""),
        (Learned, b'"rounds":', b""),
        (Correction, b'"added":', b""),
    ],
)
def test_a_list_of_faults_is_left_at_the_first(kind: type[BaseModel], field: bytes, ends: bytes) -> None:
    with pytest.raises(ValidationError) as refusal:
        kind.model_validate_json(b"{" + field + BAD + ends + b"}")
    assert refusal.value.error_count() < 20


@pytest.mark.parametrize(
    ("adapter", "before", "after"),
    [
        (coco._COCO, b'{"images":', b"}"),
        (coco._COCO, b'{"images":[{"id":1,"neg_category_ids":', b"}]}"),
        (coco._COCO, b'{"images":[],"annotations":', b"}"),
        (coco._COCO, b'{"images":[],"annotations":[{"image_id":1,"segments_info":', b"}]}"),
        (coco._COCO, b'{"images":[],"categories":', b"}"),
        (label_studio._TASKS, b"", b""),
        (label_studio._TASKS, b'[{"data":{},"annotations":', b"}]"),
        (fiftyone._LABELS, b'{"labels":{},"classes":', b"}"),
        (official._ITEMS, b"", b""),
        (official._ITEMS, b'[{"image_path":"a","caption":', b"}]"),
        (official._ITEMS, b'[{"image_path":"a","union_label_id":', b"}]"),
        (official._ITEMS, b'[{"image_path":"a","parse_label_id":', b"}]"),
    ],
)
def test_a_list_of_faults_in_annotations_is_left_at_the_first(
    adapter: TypeAdapter[Any], before: bytes, after: bytes
) -> None:
    bad = BAD if b"annotations" not in before[-15:] or adapter is coco._COCO else BAD.replace(b"{}", b"1")
    with pytest.raises(ValidationError) as refusal:
        adapter.validate_json(before + bad + after)
    assert refusal.value.error_count() < 20


@pytest.mark.parametrize(("before", "after"), [(b"", b""), (b'"files":{', b"}"), (b'"profiles":{', b"}")])
def test_a_manifest_of_very_many_names_is_refused_at_once(before: bytes, after: bytes) -> None:
    names = b",".join(b'"n%d":{}' % number for number in range(1_001))
    with pytest.raises(ValidationError, match="more than 1,000 fields, files or profiles") as refusal:
        Manifest.model_validate_json(b"{" + before + names + after + b"}")
    assert refusal.value.error_count() == 1
