"""Settings become the arguments of each part."""

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from sharpness import SharpnessKind
from sharpness.model import make_bundle
from tests.support.harness import ColourTagger, EchoCaptioner
from tests.support.images import encoded
from tests.support.kinds import given_kinds
from tests.support.remote import AnyFields, Counted, PlayedCaptioner
from tests.unit.intake.deadly import job
from workers import __version__
from workers.assembly import clients, composition, decoders, remote
from workers.assembly.composition import banner
from workers.backends.scoped_cache import NoCache, ScopedCache
from workers.errors import Misconfigured, Unavailable
from workers.intake import Limits
from workers.intake.decoding import Decoding
from workers.models import result_kinds
from workers.pipeline.options import WorkerOptions
from workers.pipeline.roles import ModelsByUse
from workers.ports import Tagger
from workers.settings import PinnedBundle, Settings
from workers.types import Facts, Transform

TAGGER = cast(Tagger, SimpleNamespace(name="toy", labels=["cat", "dog"], thresholds=[0.5, 0.5], profiles={}))


def settings(**values: Any) -> Settings:
    return Settings.model_validate(values)


def test_plain_kafka_needs_no_more_than_its_protocol() -> None:
    assert clients.security(settings()) == {"security_protocol": "PLAINTEXT"}


def test_tls_and_sasl_travel_under_the_clients_names() -> None:
    found = clients.security(
        settings(
            kafka_security_protocol="SASL_SSL",
            kafka_tls_ca="/ca.pem",
            kafka_tls_cert="/cert.pem",
            kafka_tls_key="/key.pem",
            kafka_tls_key_password="k",
            kafka_sasl_mechanism="PLAIN",
            kafka_user="u",
            kafka_password="p",
        )
    )
    assert found.pop("sasl_oauth_token_provider").token() == "p", "the password is read at each login"
    assert found == {
        "security_protocol": "SASL_SSL",
        "ssl_cafile": "/ca.pem",
        "ssl_certfile": "/cert.pem",
        "ssl_keyfile": "/key.pem",
        "ssl_password": "k",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "u",
        "sasl_plain_password": "p",
    }


def test_an_empty_redis_url_means_no_cache() -> None:
    assert isinstance(clients.result_cache(settings()), NoCache)
    cache = clients.result_cache(settings(redis_url="redis://127.0.0.1:1/0"))
    assert isinstance(cache, ScopedCache)
    cache.close()


def test_an_unset_skipped_topic_is_no_output() -> None:
    assert clients.output_topics(settings()) == ["images.enriched", "images.dead-letters"]
    assert clients.output_topics(settings(skipped_topic="s"))[-1] == "s"


def test_every_limit_and_bound_reaches_its_part() -> None:
    made = settings(max_pixels=7, formats="png", min_side=9, get_timeout_s=3, max_object_bytes=11)
    limits = decoders.limits(made)
    assert (limits.max_pixels, limits.formats, limits.min_side) == (7, ("png",), 9)
    assert (limits.fetch_s, limits.max_object_bytes) == (3.0, 11)
    by_itself = replace(Limits(), facts=settings().facts)  # a program that publishes nothing wants no facts
    assert decoders.limits(settings()) == by_itself, "limits that a program makes by itself are those of the settings"
    assert decoders.limits(settings(facts="place")).facts == "place"
    options = composition.worker_options(settings(fetch_threads=5), TAGGER)
    assert options.fetch_threads == 5, "with more in the intake's hands than threads, one partition could take them all"
    allows = composition.worker_options(settings(max_pixels=11_999_999), TAGGER).allows
    assert not allows(LARGE_JPEG), "facts of the cache are held to the same limits"
    assert options.allows(LARGE_JPEG)


LARGE_JPEG = Facts("a" * 64, "etag", None, "2026-01-01T00:00:00Z", 9, "jpeg", 4000, 3000, 9)


@pytest.mark.parametrize(("scaling", "scale"), [("off", 1), ("close", 2), ("fast", 4)])
def test_a_profile_of_scaling_reaches_the_intake_the_cache_and_the_judge(scaling: str, scale: int) -> None:
    made, transforms = settings(decode_scaling=scaling), (Transform(384),)
    scale_of = composition.worker_options(made, TAGGER).scale_of(transforms)
    assert scale_of(LARGE_JPEG) == scale
    assert scale_of(replace(LARGE_JPEG, format="png")) == 1
    assert scale_of(replace(LARGE_JPEG, width=640, height=480)) == 1
    assert scaling in decoders.judge(made).split()
    body = encoded(Image.new("L", (4000, 3000)), "jpeg")
    decoding = Decoding(transforms, Limits(), decoders.reducing_gap(made))
    assert decoding.scale_of(decoding.inspect(body)) == scale


def test_an_inspected_image_and_its_cache_entry_have_the_same_scale() -> None:
    transforms = [Transform(24), Transform(22, "crop", 24, "bicubic")]
    made = settings(decode_scaling="close")
    of_facts = decoders.scale_of_facts(made, transforms)
    decoding = Decoding(transforms, Limits(), decoders.reducing_gap(made))
    for size in ((300, 200), (143, 144), (144, 144), (40, 900), (600, 400), (1200, 900)):
        header = decoding.inspect(encoded(Image.new("RGB", size), "jpeg"))
        assert of_facts(replace(LARGE_JPEG, width=size[0], height=size[1])) == decoding.scale_of(header)


def test_an_option_that_is_a_setting_has_its_name_its_default_and_its_value() -> None:
    """Guard: every option is passed on without a default of its own."""
    unset = settings()
    changed: dict[str, object] = {}
    for option in fields(WorkerOptions):
        if option.metadata.get("setting"):
            default = getattr(WorkerOptions(), option.name)
            assert default == getattr(unset, option.name), option.name
            changed[option.name] = _other(option.name, default)
    made = settings(**changed)
    options = composition.worker_options(made, TAGGER)
    assert {name: getattr(options, name) for name in changed} == {name: getattr(made, name) for name in changed}
    assert all(getattr(made, name) != getattr(unset, name) for name in changed)
    assert len(changed) > 15


def _other(name: str, value: object) -> object:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value / 2 or 0.5  # a share may be 1 at most
        case tuple():
            return ("tags",) if name == "want" else ("other",)
    return "http://other:1" if name == "s3_endpoint" else name


def test_an_impossible_store_is_reported_at_once() -> None:
    made = settings(s3_endpoint="http://127.0.0.1:1", s3_region="no such region")
    with pytest.raises(Misconfigured, match=r"invalid region no such region: correct .* TAGSTREAM_S3_REGION"):
        decoders.intake(made, [Transform(8)])


def test_a_system_without_a_sandbox_for_decoders_gets_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(Misconfigured, match="need Linux: use it, a container or WSL2"):
        decoders.intake(settings(s3_endpoint="http://127.0.0.1:1"), [Transform(8)])


def test_objects_are_read_from_the_store_of_the_settings() -> None:
    made = settings(
        s3_endpoint="http://127.0.0.1:1",
        s3_access_key="key",
        s3_secret_key="secret",
        s3_region="here",
        decode_threads=1,
        retry_s=0.1,
    )
    intake = decoders.intake(made, [Transform(8)])
    with pytest.raises(Unavailable, match="s3"):
        intake.fetch(job(40), 1 << 20).result(60)
    intake.close()


def test_a_broker_that_is_away_is_waited_for_and_a_stop_ends_the_waiting() -> None:
    tries = iter([Unavailable("kafka", "away"), Unavailable("kafka", "away")])

    def make() -> str:
        for error in tries:
            raise error
        return "made"

    assert composition.patiently(make, lambda: False) == "made"
    with pytest.raises(composition.Stopped):
        composition.patiently(make, lambda: True)


@pytest.mark.parametrize(
    ("endpoint", "region", "own", "expected"),
    [
        ("https://s3.eu-west-1.amazonaws.com", "eu-west-1", "", "https://sts.eu-west-1.amazonaws.com"),
        ("https://s3.amazonaws.com", "", "", "https://sts.amazonaws.com"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1", "", "https://sts.cn-north-1.amazonaws.com.cn"),
        ("http://minio:9000", "us-east-1", "", "http://minio:9000"),
        ("https://s3.amazonaws.com.example.com", "x", "", "https://s3.amazonaws.com.example.com"),
        ("http://minio:9000", "", "http://sts:1", "http://sts:1"),
    ],
)
def test_the_token_service_belongs_to_the_store(endpoint: str, region: str, own: str, expected: str) -> None:
    made = settings(s3_endpoint=endpoint, s3_region=region, aws_endpoint_url_sts=own)
    assert clients.sts_endpoint(made) == expected


def test_the_banner_names_version_models_device_topics_and_delivery() -> None:
    tagger, captioner = ColourTagger(), EchoCaptioner()
    captioner.random_weights = True
    chosen = settings(input_topics="a,b", delivery="at_least_once", group="g")
    said = banner(chosen, ModelsByUse(tagger=tagger, captioner=captioner), "Some CPU")
    for model, more in ((tagger, ""), (captioner, ", RANDOM WEIGHTS")):
        assert f"{model.digest[:12]} ({model.precision}, batches of up to {model.max_batch}{more})" in said
    for named in (
        __version__,
        "Some CPU",
        "a, b",
        "group g",
        chosen.output_topic,
        chosen.dead_letter_topic,
        "at_least",
    ):
        assert named in said


def test_roles_are_loaded_in_order_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_kinds, "kinds", lambda: {name: SharpnessKind() for name in ("second", "first")})
    bundle = make_bundle(tmp_path / "sharpness")
    chosen = settings(roles={name: str(bundle.folder) for name in ("first", "second")}, device="cpu", max_batch=5)
    models: Any = ModelsByUse(tagger=ColourTagger())
    monkeypatch.setattr(Settings, "bundles", lambda made: {name: PinnedBundle.of(b) for name, b in made.roles.items()})
    models |= composition.load_models(chosen)
    assert [models[name].max_batch for name in chosen.roles] == [5, 5]
    assert [role.model for role in composition.added_roles(chosen, models)] == [models["first"], models["second"]]
    said = banner(chosen, models, "Some CPU")
    assert f"captioner template, first sharpness {bundle.digest[:12]} (fp32, batches of up to 5), second " in said


ELSEWHERE = {"captioner": "https://captions.example/v1", "caption_model": "Qwen3-VL-8B"}


def test_an_address_is_named_with_its_model_and_loads_none() -> None:
    said = banner(settings(**ELSEWHERE), ModelsByUse(tagger=ColourTagger()), "Some CPU")
    assert ", captioner Qwen3-VL-8B at https://captions.example/v1, on Some CPU; " in said
    assert settings(**ELSEWHERE).bundles().keys() == {"tagger"}


def test_an_address_alone_brings_a_captioner_from_elsewhere_and_its_kind_of_fields(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = PlayedCaptioner(fields=Counted)
    given: list[Settings] = []

    def make(chosen: Settings) -> PlayedCaptioner:
        given.append(chosen)
        return made

    points = [SimpleNamespace(load=lambda: make)]
    monkeypatch.setattr(remote, "entry_points", lambda group, name: points if name == "address" else [])
    assert remote.remote_captioner(settings()) is None
    assert remote.remote_captioner(settings(**ELSEWHERE)) is made
    assert given == [settings(**ELSEWHERE)]
    with given_kinds(AnyFields):
        assert isinstance(remote.kind_of_fields(made), AnyFields)
        assert remote.kind_of_fields(PlayedCaptioner()) is remote.kind_of_fields(None) is None
    points.clear()
    with pytest.raises(Misconfigured, match="tagstream-remote is not installed"):
        remote.remote_captioner(settings(**ELSEWHERE))
