"""What is asked before the work begins, and the memory that it takes at worst."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.result_kinds import ResultKind
from sharpness import SharpnessKind
from sharpness.model import make_bundle
from tests.support.command import Tagstream
from tests.unit.models.small import small_bundle
from tests.unit.models.tiny import tiny_bundle
from workers.assembly import findings
from workers.assembly.needs import DECODER_BYTES, MIB, PROGRAM_BYTES, compared, needed, worst_bytes
from workers.environment import read, read_here
from workers.errors import Misconfigured, Unavailable
from workers.models import result_kinds
from workers.settings import Settings


def fails(error: Exception) -> str:
    raise error


def test_a_finding_names_the_dependency_once_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def questions(_: Settings) -> Iterator[tuple[str, object]]:
        yield "Kafka", lambda: fails(Unavailable("kafka", "no broker answers", advice="Start one."))
        yield "Redis", lambda: fails(Unavailable("redis", "it is loading"))
        yield "Memory", lambda: fails(Misconfigured("there is too little"))

    monkeypatch.setattr(findings, "_questions", questions)
    found = [(finding.about, finding.says) for finding in findings.findings_of(Settings())]
    assert found == [
        ("Kafka", "no broker answers\nStart one."),
        ("Redis", "it is loading"),
        ("Memory", "there is too little"),
    ]


def asked_of(settings: Settings) -> dict[str, Callable[[], str]]:
    return dict(findings._questions(settings))


@pytest.mark.parametrize("there", [False, True])
def test_a_device_that_is_asked_for_by_name_is_looked_for(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    asked = asked_of(Settings(device="cuda"))
    if there:
        assert asked["Device"]() == "torch finds a CUDA device"
    else:
        with pytest.raises(Misconfigured, match="torch finds no CUDA device; check the driver"):
            asked["Device"]()
    assert "Device" not in asked_of(Settings())


def test_embeddings_for_every_event_need_a_tagger_that_gives_them(
    tmp_path: Path, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_tags, of_both = tiny_bundle(tmp_path / "tiny"), small_bundle("ram", tmp_path / "ram")
    given = {"KAFKA_SERVERS": "127.0.0.1:1", "S3_ENDPOINT": "http://127.0.0.1:1", "BUCKETS": "photos"}
    monkeypatch.setenv("TAGSTREAM_WANT", "tags,embedding")
    said = tagstream("run", TAGGER=of_tags.folder, **given).fails()
    assert "TAGSTREAM_WANT=tags,embedding: the tagger tiny gives no embeddings" in said
    monkeypatch.setenv("TAGSTREAM_TAGGER", str(of_both.folder))
    monkeypatch.setenv("TAGSTREAM_KAFKA_SERVERS", "127.0.0.1:1")
    assert needed("kafka_servers", worker=True).want == ("tags", "embedding")
    for bundle, gives in ((of_tags, False), (of_both, True)):
        asked = asked_of(Settings(want=("embedding",), tagger=str(bundle.folder)))
        if gives:
            assert bundle.name in asked["Embeddings"]()
        else:
            with pytest.raises(Misconfigured, match="TAGSTREAM_WANT"):
                asked["Embeddings"]()


@pytest.mark.parametrize(
    ("role", "says"),
    [
        ("sharpnes", "no installed package adds this role (installed: sharpness). Do you mean 'sharpness'?"),
        ("sharpness", "is a bundle of the kind 'tiny'; this role needs one of the kind 'sharpness'"),
    ],
)
def test_a_role_needs_its_package_and_a_bundle_of_its_kind(
    role: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_kinds, "kinds", lambda: {"sharpness": SharpnessKind()})
    monkeypatch.setenv("TAGSTREAM_ROLES", f"{role}={tiny_bundle(tmp_path / 'tiny').folder}")
    with pytest.raises(Misconfigured, match=re.escape(f"TAGSTREAM_ROLES={role}: ")) as caught:
        needed(worker=True)
    assert says in str(caught.value)
    with pytest.raises(Misconfigured, match=re.escape(says)):
        asked_of(read_here())[f"Role {role}"]()


def test_a_roles_bundle_is_found_and_counts_as_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_kinds, "kinds", lambda: {"sharpness": SharpnessKind()})
    bundle = make_bundle(tmp_path / "sharpness")
    monkeypatch.setenv("TAGSTREAM_ROLES", f"sharpness={bundle.folder}@sha256:{bundle.digest}")
    settings = needed(worker=True)
    assert asked_of(settings)["Role sharpness"]() == (
        f"sharpness, digest {bundle.digest}, pinned by TAGSTREAM_ROLES=sharpness"
    )
    monkeypatch.setenv("TAGSTREAM_ROLES", f"sharpness={bundle.folder}@sha256:{'0' * 64}")
    with pytest.raises(Misconfigured, match="TAGSTREAM_ROLES=sharpness wants 0000"):
        needed(worker=True)


def test_a_broken_package_of_roles_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, ResultKind]:
        raise ValueError("the kind 'sharpness' can't be loaded")

    monkeypatch.setattr(result_kinds, "kinds", broken)
    with pytest.raises(Misconfigured, match="'sharpness' can't be loaded"):
        result_kinds.added_kinds()


@pytest.fixture
def settings() -> Settings:
    sizes = {
        "encoded": "100MiB",
        "polled": "20MiB",
        "batch": "20MiB",
        "ledger": "30MiB",
        "decoded": "400MiB",
        "corrections": "7MiB",
    }
    budgets = {f"{name}_bytes": size for name, size in sizes.items()}
    return Settings.model_validate({**budgets, "decode_memory": "600MiB"})


def test_an_image_larger_than_the_pool_takes_its_place(settings: Settings) -> None:
    fixed = (100 + 3 * 20 + 30) * MIB + 2 * DECODER_BYTES + 2 * 7 * MIB + PROGRAM_BYTES
    assert worst_bytes(settings, 2, 7 * MIB) == fixed + (200 + 600) * MIB * 5 // 4
    small = settings.model_copy(update={"decode_memory": 50 * MIB})
    assert worst_bytes(small, 2, 7 * MIB) == fixed + 400 * MIB * 5 // 4
    corrected = small.model_copy(update={"corrections_topic": "corrections"})
    assert worst_bytes(corrected, 2, 7 * MIB) == worst_bytes(small, 2, 7 * MIB) + 7 * MIB


def test_the_worst_case_fits_into_the_memory_except_for_the_decoders_growth() -> None:
    made = read({"TAGSTREAM_CORRECTIONS_TOPIC": "corrections"})
    decoding = made.decoded_bytes // 2 + made.decode_memory
    assert worst_bytes(made, 0, 0) - PROGRAM_BYTES <= made.memory + decoding // 4


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        (None, "up to 3000 MiB; nothing limits it here"),
        (3000 * MIB, "up to 3000 MiB, of 3000 MiB that this container may have"),
        (2999 * MIB, "it will be killed. Raise its limit, or lower TAGSTREAM_MEMORY"),
    ],
)
def test_the_sum_is_compared_with_the_containers_limit(limit: int | None, says: str) -> None:
    assert says in compared(3000 * MIB, limit)
