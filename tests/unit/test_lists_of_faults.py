"""Lists of a million faults in files of others: the first is enough, and each would take hundreds of bytes."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from schemas.correction import Correction
from workers.capacity.profile import MachineProfile
from workers.models.bundle import Manifest
from workers.training.data.samples import Header, Sample
from workers.training.learned import Learned

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


@pytest.mark.parametrize(("before", "after"), [(b"", b""), (b'"files":{', b"}"), (b'"profiles":{', b"}")])
def test_a_manifest_of_very_many_names_is_refused_at_once(before: bytes, after: bytes) -> None:
    names = b",".join(b'"n%d":{}' % number for number in range(1_001))
    with pytest.raises(ValidationError, match="more than 1,000 fields, files or profiles") as refusal:
        Manifest.model_validate_json(b"{" + before + names + after + b"}")
    assert refusal.value.error_count() == 1
