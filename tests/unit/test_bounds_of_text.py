"""Text from outside is read within limits: JSON, and files with a fault in every line."""

import ast
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from examples.learn.loop import Learned
from schemas.correction import Correction
from tagstream_train.data.formats import coco, fiftyone, label_studio, official
from tagstream_train.data.samples import Header, Sample
from workers.capacity import MachineProfile
from workers.models.manifest import Manifest

ROOT = Path(__file__).parents[2]
OURS = {
    "workers/models/dual/cutting.py": "the requests that the parent has written",
    "workers/models/ram/config.py": "what was written the line before",
    "workers/intake/processes/fork_server.py": "the argument that the parent has written",
}
"""Modules where `json` reads only our own output."""


READERS = ("json.loads", "json.load", "literal_eval")


def _reads(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if not any(reader in text for reader in READERS):
        return []
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    return [call for call in calls if call in READERS]


@pytest.mark.parametrize("package", ["schemas", "workers"])
def test_a_parser_that_can_end_in_a_recursion_error_reads_only_our_own_output(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        assert not _reads(path) or name in OURS, f"{name}: use pydantic_core.from_json"


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


COCO, TASKS, LABELS, ITEMS = coco._COCO, label_studio._TASKS, fiftyone._LABELS, official._ITEMS


@pytest.mark.parametrize(
    ("adapter", "before", "after"),
    [
        (COCO, b'{"images":', b"}"),
        (COCO, b'{"images":[{"id":1,"neg_category_ids":', b"}]}"),
        (COCO, b'{"images":[],"annotations":', b"}"),
        (COCO, b'{"images":[],"annotations":[{"image_id":1,"segments_info":', b"}]}"),
        (COCO, b'{"images":[],"categories":', b"}"),
        (TASKS, b"", b""),
        (TASKS, b'[{"data":{},"annotations":', b"}]"),
        (LABELS, b'{"labels":{},"classes":', b"}"),
        (ITEMS, b"", b""),
        (ITEMS, b'[{"image_path":"a","caption":', b"}]"),
        (ITEMS, b'[{"image_path":"a","union_label_id":', b"}]"),
        (ITEMS, b'[{"image_path":"a","parse_label_id":', b"}]"),
    ],
)
def test_a_list_of_faults_in_annotations_is_left_at_the_first(
    adapter: TypeAdapter[Any], before: bytes, after: bytes
) -> None:
    bad = BAD if b"annotations" not in before[-15:] or adapter is COCO else BAD.replace(b"{}", b"1")
    with pytest.raises(ValidationError) as refusal:
        adapter.validate_json(before + bad + after)
    assert refusal.value.error_count() < 20


@pytest.mark.parametrize(("before", "after"), [(b"", b""), (b'"files":{', b"}"), (b'"profiles":{', b"}")])
def test_a_manifest_of_very_many_names_is_refused_at_once(before: bytes, after: bytes) -> None:
    names = b",".join(b'"n%d":{}' % number for number in range(1_001))
    with pytest.raises(ValidationError, match="more than 1,000 fields, files or profiles") as refusal:
        Manifest.model_validate_json(b"{" + before + names + after + b"}")
    assert refusal.value.error_count() == 1
