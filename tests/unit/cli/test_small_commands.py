"""What single commands say, and where they refuse."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.dead_letter import read_dead_letter_headers
from tests.support.harness import ColourTagger, EchoCaptioner
from tests.unit.cli.conftest import Tagstream
from tests.unit.models.small import small_bundle
from tests.unit.models.tiny import tiny_bundle
from workers import __version__
from workers.assembly import findings
from workers.assembly.composition import banner
from workers.assembly.needs import DECODER_BYTES, MIB, PROGRAM_BYTES, compared, needed, worst_bytes
from workers.assembly.skipping import Skipping
from workers.cli.correct import _records
from workers.environment import read
from workers.errors import MISCONFIGURED, Misconfigured, Unavailable
from workers.pipeline.roles import ModelsByUse
from workers.settings import Settings
from workers.types import Assignment, Partition


def test_the_banner_names_version_models_device_topics_and_delivery() -> None:
    tagger, captioner = ColourTagger(), EchoCaptioner()
    captioner.random_weights = True
    settings = Settings.model_validate({"input_topics": "a,b", "delivery": "at_least_once", "group": "g"})
    said = banner(settings, ModelsByUse(tagger=tagger, captioner=captioner), "Some CPU")
    assert said == (
        f"tagstream {__version__}: "
        f"tagger {tagger.name} {tagger.digest[:12]} ({tagger.precision}, batches of up to {tagger.max_batch}), "
        f"captioner {captioner.name} {captioner.digest[:12]} "
        f"({captioner.precision}, batches of up to {captioner.max_batch}, RANDOM WEIGHTS), on Some CPU; "
        f"reads a, b as group g; writes {settings.output_topic}, dead letters to {settings.dead_letter_topic}, "
        "skips to nowhere, counted only; delivery at_least_once"
    )


def test_a_sample_is_named_with_its_share() -> None:
    settings = Settings.model_validate({"sample": 0.005})
    said = banner(settings, ModelsByUse(tagger=ColourTagger()), "Some CPU")
    assert "0.50%" in said


def test_a_worker_without_a_model_has_its_taggers_configured_name() -> None:
    settings = Settings.model_validate({"captioner": "template", "skipped_topic": "images.skipped"})
    said = banner(settings, ModelsByUse(tagger=ColourTagger()), "Some CPU")
    assert ", captioner template, on Some CPU; " in said
    assert "skips to images.skipped; delivery exactly_once" in said


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
    for name, value in {
        "KAFKA_SERVERS": "127.0.0.1:1",
        "S3_ENDPOINT": "http://127.0.0.1:1",
        "BUCKETS": "photos",
    }.items():
        monkeypatch.setenv(f"TAGSTREAM_{name}", value)
    monkeypatch.setenv("TAGSTREAM_WANT", "tags,embedding")
    monkeypatch.setenv("TAGSTREAM_TAGGER", str(of_tags.folder))
    ran = tagstream("run")
    assert ran.code == MISCONFIGURED
    assert "TAGSTREAM_WANT=tags,embedding: the tagger tiny gives no embeddings" in ran.err
    monkeypatch.setenv("TAGSTREAM_TAGGER", str(of_both.folder))
    assert needed("kafka_servers", worker=True).want == ("tags", "embedding")
    for bundle, gives in ((of_tags, False), (of_both, True)):
        asked = asked_of(Settings(want=("embedding",), tagger=str(bundle.folder)))
        if gives:
            assert bundle.name in asked["Embeddings"]()
        else:
            with pytest.raises(Misconfigured, match="TAGSTREAM_WANT"):
                asked["Embeddings"]()


LINE = b'{"schema":"image-correction/1","bucket":"photos","key":"a.jpg","added":["dog"]}\n'


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "BUCKET/KEY"),
        (["photos/a.jpg", "--file", "x"], "BUCKET/KEY"),
        (["--file", "x", "--add", "dog"], "--file"),
        (["--file", "x", "--apply"], "--apply is for one image"),
        (["photos", "--add", "dog"], "'photos' is no BUCKET/KEY"),
        (["photos/a.jpg"], "--add TAG, --remove TAG and --withdraw"),
        (["photos/a.jpg", "--add", "dog", "--remove", "dog"], "both added and removed"),
        (["photos/a.jpg", "--add", "dog", "--withdraw"], "--withdraw"),
        (["photos/a.jpg", "--add", "dog", "--sha256", "abc"], "sha256"),
        (["photos/a.jpg", "--add", "dog"], "TAGSTREAM_KAFKA_SERVERS"),
    ],
)
def test_a_meaningless_argument_is_refused(tagstream: Tagstream, arguments: list[str], says: str) -> None:
    ran = tagstream("correct", *arguments)
    assert ran.code == 2
    assert says in ran.err


def test_a_file_is_read_line_by_line_and_a_bad_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "corrections.jsonl"
    file.write_bytes(LINE + b"\n" + LINE.replace(b"a.jpg", b"b.jpg") + b'{"schema":"x"}\n')
    read = _records(file)
    assert [next(read).key, next(read).key] == [b"photos/a.jpg", b"photos/b.jpg"]
    with pytest.raises(Misconfigured, match=r"corrections\.jsonl, line 4: .*The lines before it are sent"):
        next(read)


def test_a_line_without_an_end_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "corrections.jsonl"
    file.write_bytes(b"x" * 10_000_000)
    with pytest.raises(Misconfigured, match=r"line 1: 262,146 bytes"):
        next(_records(file))
    with pytest.raises(Misconfigured, match="can't be read: No such file"):
        next(_records(tmp_path / "none"))


def test_a_skipped_record_is_null_truncated_and_named_by_its_coordinates() -> None:
    skipping = Skipping(Settings(input_topics=("images",)), "images", 3, 41, print)
    message = skipping._dead_letter(Assignment(Partition("images", 3), "me"), limit=1 << 20)
    dead_letter = read_dead_letter_headers(message.headers)
    assert dead_letter is not None
    assert (dead_letter.topic, dead_letter.partition, dead_letter.offset, dead_letter.last_offset) == (
        "images",
        3,
        41,
        41,
    )
    assert (message.key, message.value, dead_letter.nulls, dead_letter.truncated) == (b"", b"", ("key", "value"), True)
    assert [failure.reason for failure in dead_letter.failures] == ["skipped-by-operator"]


@pytest.fixture
def settings() -> Settings:
    sizes = {"encoded": "100MiB", "polled": "20MiB", "ledger": "30MiB", "decoded": "400MiB", "corrections": "7MiB"}
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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("plan",), "--output"),
        (("plan", "-o", "plan", "--reason", "below-flor"), "below-floor"),
        (("plan", "-o", "plan", "--device-price", 1), "--profile"),
        (("plan", "-o", "plan", "--profile", "none.json"), "none.json"),
        (("plan", "-o", "plan", "--since", "noon"), "noon"),
        (("plan", "-o", "plan"), "TAGSTREAM_KAFKA_SERVERS"),
        (("--plan", "-o", "plan"), "tagstream retag plan -o plan"),
        (("--rate", "9", "--go", "my plan"), "tagstream retag go 'my plan' --rate 9"),
        (("--pause=plan",), "tagstream retag pause plan"),
    ],
)
def test_a_plan_that_can_not_be_made_is_refused_before_anything_is_read(
    tagstream: Tagstream, arguments: tuple[object, ...], says: str
) -> None:
    ran = tagstream("retag", *arguments)
    assert ran.code == MISCONFIGURED
    assert says in ran.err
