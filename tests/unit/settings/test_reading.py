"""The environment becomes settings, or sentences about its errors."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from workers.environment import FIELDS, examine, read, require, secret_values
from workers.errors import Misconfigured
from workers.settings import PinnedBundle, Settings, setting_of

OAUTH = {"TAGSTREAM_KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "TAGSTREAM_KAFKA_SASL_MECHANISM": "OAUTHBEARER"}
VLM = {"TAGSTREAM_CAPTIONER": "https://vlm.example/v1", "TAGSTREAM_CAPTION_MODEL": "qwen"}


def complaint(environ: dict[str, str]) -> str:
    with pytest.raises(Misconfigured) as caught:
        read(environ)
    return str(caught.value)


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = read({})
    assert settings.group == "tagstream"
    assert settings.topics == (settings.live_topic,) == ("images",)
    assert settings.delivery == "exactly_once"
    assert settings.max_object_bytes == 20 * 1024 * 1024
    assert settings == Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.group = "another"


def test_values_are_read_by_their_types() -> None:
    settings = read(
        {
            "TAGSTREAM_KAFKA_SERVERS": "one:9092, two:9093 ,[::1]:9094",
            "TAGSTREAM_MAX_OBJECT_BYTES": "1MiB",
            "TAGSTREAM_FORMATS": "JPEG,png",
            "TAGSTREAM_DELIVERY": "At_Least_Once",
            "TAGSTREAM_WANT": "embedding, tags",
            "TAGSTREAM_KEEP_SCORES": "off",
            "TAGSTREAM_CORRECTIONS_BY": "on",
            "TAGSTREAM_TOMBSTONES": "on",
            "TAGSTREAM_DRAIN_S": "7.5",
            "TAGSTREAM_S3_ENDPOINT": "https://store.example/",
        }
    )
    assert settings.kafka_servers == ("one:9092", "two:9093", "[::1]:9094")
    assert settings.max_object_bytes == 1024 * 1024
    assert settings.formats == ("jpeg", "png")
    assert settings.delivery == "at_least_once"
    assert settings.drain_s == 7.5
    assert settings.want == ("tags", "embedding")
    assert (settings.keep_scores, settings.tombstones, settings.corrections_by) == (False, True, True)
    assert settings.s3_endpoint == "https://store.example"


def test_roles_keep_their_order_and_their_pins() -> None:
    settings = read(
        {
            "TAGSTREAM_ROLES": f"sharpness=bundles/sharp, of-faces = faces@sha256:{'AB' * 32},",
            "TAGSTREAM_WANT": "of-faces,caption,tags,of-faces",
            "TAGSTREAM_TAGGER": f"bundles/ram@sha256:{'A' * 64}",
        }
    )
    assert list(settings.roles.items()) == [("sharpness", "bundles/sharp"), ("of-faces", f"faces@sha256:{'ab' * 32}")]
    bundles = settings.bundles()
    assert list(bundles) == ["tagger", "sharpness", "of-faces"]
    assert bundles["tagger"] == ("bundles/ram", "a" * 64)
    assert bundles["of-faces"] == PinnedBundle("faces", "ab" * 32)
    assert settings.want == ("tags", "caption", "of-faces")
    assert [setting_of(use) for use in bundles] == [
        "TAGSTREAM_TAGGER",
        "TAGSTREAM_ROLES=sharpness",
        "TAGSTREAM_ROLES=of-faces",
    ]


def test_an_empty_value_counts_as_not_set() -> None:
    assert read({"TAGSTREAM_GROUP": "", "TAGSTREAM_HTTP_PORT": " "}) == Settings()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("TAGSTREAM_KAFKA_SERVER", "Do you mean TAGSTREAM_KAFKA_SERVERS?"),
        ("TAGSTREAM_S3_SECRET_FILE", "Do you mean TAGSTREAM_S3_SECRET_KEY_FILE?"),
        ("TAGSTREAM_QQQQQQQQ", "`tagstream settings` lists them all."),
        ("TAGSTREAM_group", "Do you mean TAGSTREAM_GROUP?"),
        ("TAGSTREAM_HTP_PORT", "Do you mean TAGSTREAM_HTTP_PORT?"),  # Kubernetes makes names that end so
        ("TAGSTREAM_GROUP_FILE", "only secrets are read from files; set TAGSTREAM_GROUP itself"),
    ],
)
def test_an_unknown_name_is_an_error_that_suggests_the_nearest(name: str, says: str) -> None:
    assert complaint({name: "8080"}).endswith(says)


def test_all_wrong_names_and_values_are_reported_together() -> None:
    assert len(complaint({"TAGSTREAM_A": "1", "TAGSTREAM_B": "2"}).splitlines()) == 2
    assert len(complaint({"TAGSTREAM_DEVICE": "gpu", "TAGSTREAM_HTTP_PORT": "x"}).splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TAGSTREAM_SERVICE_HOST", "10.0.0.1"),
        ("TAGSTREAM_SERVICE_PORT", "80"),
        ("TAGSTREAM_SERVICE_PORT_HTTP", "80"),
        ("TAGSTREAM_CONSOLE_SERVICE_HOST", "10.0.0.1"),
        ("TAGSTREAM_PORT", "tcp://10.0.0.1:80"),
        ("TAGSTREAM_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("TAGSTREAM_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("TAGSTREAM_WORKER_PORT_80_TCP_PROTO", "tcp"),
        ("TAGSTREAM_HTTP_PORT", "tcp://10.0.0.1:80"),
    ],
)
def test_names_that_kubernetes_makes_for_a_service_are_ignored(name: str, value: str) -> None:
    assert read({name: value}) == Settings()


def test_a_secret_comes_from_its_file_without_the_newline(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" s3cret \n")
    settings = read({"TAGSTREAM_S3_ACCESS_KEY": "me", "TAGSTREAM_S3_SECRET_KEY_FILE": str(tmp_path / "key")})
    assert settings.s3_secret_key.get_secret_value() == " s3cret "


def test_where_a_secret_came_from_is_known_so_that_it_can_be_read_again(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p")
    settings = read({"TAGSTREAM_KAFKA_PASSWORD_FILE": str(tmp_path / "password"), "TAGSTREAM_CACHE_NAMESPACE": "n"})
    assert settings.secret_files == {"kafka_password": tmp_path / "password"}


@pytest.mark.parametrize(
    "login",
    [
        {"TAGSTREAM_KAFKA_TOKEN_FILE": "/token"},
        {
            "TAGSTREAM_KAFKA_USER": "u",
            "TAGSTREAM_KAFKA_PASSWORD": "p",
            "TAGSTREAM_KAFKA_TOKEN_ENDPOINT": "https://auth/realms/r/token",
        },
        {"TAGSTREAM_KAFKA_SASL_MECHANISM": "AWS_MSK_IAM", "AWS_REGION": "eu-west-1"},
    ],
)
def test_each_kafka_login_requires_its_own_settings_and_no_others(login: dict[str, str]) -> None:
    assert read(OAUTH | login).kafka_security_protocol == "SASL_SSL"


def test_an_empty_secret_file_counts_as_not_set(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("\n")
    assert read({"TAGSTREAM_REDIS_URL_FILE": str(tmp_path / "url")}) == Settings()


def test_a_secret_given_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s")
    text = complaint({"TAGSTREAM_KAFKA_PASSWORD": "s", "TAGSTREAM_KAFKA_PASSWORD_FILE": str(tmp_path / "key")})
    assert "both set" in text


def test_a_secret_file_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nothing"
    text = complaint({"TAGSTREAM_REDIS_URL_FILE": str(path)})
    assert str(path) in text
    assert "No such file" in text


def test_a_file_without_an_end_is_named_and_not_read_on() -> None:
    text = complaint({"TAGSTREAM_REDIS_URL_FILE": "/dev/zero"})
    assert text == "TAGSTREAM_REDIS_URL_FILE=/dev/zero can't be read: it has more than 65,536 bytes"


def test_a_wrong_value_is_reported_with_the_settings_meaning() -> None:
    text = complaint({"TAGSTREAM_DEVICE": "gpu"})
    assert text.startswith("TAGSTREAM_DEVICE=gpu: ")
    assert "'auto', 'cpu' or 'cuda'" in text
    assert "CUDA where there is one" in text


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("KAFKA_SERVERS", "localhost", "not host:port"),
        ("S3_ENDPOINT", "store:9000", "http://host:port"),
        ("S3_ENDPOINT", "http://store/bucket", "no bucket"),
        ("REDIS_URL", "http://cache", "redis://"),
        ("FORMATS", "jpg", "'jpg' is not among jpeg"),
        ("OUTPUT_TOPIC", "a b", "not a topic's name"),
        ("MAX_OBJECT_BYTES", "-3", "a size, such as 20MiB"),
        ("MAX_OBJECT_BYTES", "20,000,000", "a size, such as 20MiB"),
        ("MAX_OBJECT_BYTES", "1e-3", "a size, such as 20MiB"),
        ("MAX_OBJECT_BYTES", "64MiB each", "a size, such as 20MiB"),
        ("KAFKA_SESSION_TIMEOUT_S", "0", "greater than or equal to 1"),
        ("FETCH_THREADS", "many", "a whole number"),
        ("INPUT_TOPICS", ",", "at least one"),
        ("HTTP_PORT", "70000", "less than or equal to 65535"),
        ("WANT", "tags,words", "some of tags, caption, embedding"),
        ("ROLES", "bundles/sharp", "not ROLE=BUNDLE"),
        ("ROLES", "sharpness=a,sharpness=b", "'sharpness' twice"),
        ("ROLES", "Sharpness=a", "match pattern"),
        ("ROLES", "sharpness=", "not ROLE=BUNDLE"),
        ("ROLES", "sharpness=a@sha256:12", "all 64 digits"),
        ("WANT", ",", "some of tags, caption, embedding"),
        ("TOMBSTONES", "perhaps", "on or off"),
        ("CAPTIONER", "https://user:pass@vlm/v1", "without user"),
        ("CAPTIONER", "https://vlm/v1?key=x", "query"),
        ("CAPTIONER", "https://vlm/v1?", "query"),
        ("CAPTIONER", "https://", "a URL"),
        ("CAPTIONER", "https://vlm:99999/v1", "out of range"),
        ("CAPTIONER", "https://vlm/a b", "visible"),
        ("CAPTION_KEY", "two\nlines", "visible"),
        ("CAPTION_WAIT_S", "0", "greater than 0"),
        ("CAPTION_TOKENS_PER_DAY", "-1", "greater than or equal to 0"),
        ("TAGGER", "bundles/ram@sha256:abc", "models verify"),
        ("CAPTIONER", f"template@sha256:{'a' * 64}", "'template' is no bundle"),
        ("CACHE_NAMESPACE", "a:b", "letters, digits"),
        ("CACHE_KEY", "short", "at least 32 characters"),
    ],
)
def test_wrong_values_get_a_sentence(name: str, value: str, says: str) -> None:
    assert says in complaint({f"TAGSTREAM_{name}": value})


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"TAGSTREAM_KAFKA_SECURITY_PROTOCOL": "sasl_ssl"}, "needs TAGSTREAM_KAFKA_USER"),
        ({"TAGSTREAM_KAFKA_USER": "u"}, "PROTOCOL=PLAINTEXT has no login: set it to SASL_SSL"),
        (OAUTH, "needs TAGSTREAM_KAFKA_USER"),
        (OAUTH | {"TAGSTREAM_KAFKA_USER": "u", "TAGSTREAM_KAFKA_PASSWORD": "p"}, "TOKEN_ENDPOINT or TAGSTREAM_KAFKA"),
        (
            OAUTH | {"TAGSTREAM_KAFKA_TOKEN_FILE": "/t", "TAGSTREAM_KAFKA_TOKEN_ENDPOINT": "https://auth/token"},
            "and not both",
        ),
        ({"TAGSTREAM_KAFKA_TOKEN_ENDPOINT": "http://auth/token"}, "must be https://"),
        (
            {"TAGSTREAM_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "TAGSTREAM_KAFKA_SASL_MECHANISM": "aws_msk_iam"},
            "needs TAGSTREAM_KAFKA_SECURITY_PROTOCOL=SASL_SSL",
        ),
        ({"TAGSTREAM_KAFKA_TLS_CERT": "/c"}, "go together"),
        ({"TAGSTREAM_S3_ACCESS_KEY": "a"}, "go together"),
        ({"TAGSTREAM_INPUT_TOPICS": "a,images.enriched"}, "read its own output"),
        ({"TAGSTREAM_WANT": "sharpness", "TAGSTREAM_ROLES": "faces=a"}, "roles in TAGSTREAM_ROLES (faces)"),
        ({"TAGSTREAM_ROLES": ",".join(f"{chr(97 + number)}=bundle" for number in range(14))}, "at most 13 items"),
        ({"TAGSTREAM_MEMORY": "8MiB"}, "could never be fetched"),
        ({"TAGSTREAM_BUCKETS": "photos", "TAGSTREAM_RENDITION": "{bucket}-web/{key}"}, "into photos-web, which must"),
        ({"TAGSTREAM_ROLES": "fields=bundles/x"}, "TAGSTREAM_WANT"),
        ({"TAGSTREAM_CAPTIONER": "https://vlm/v1"}, "needs TAGSTREAM_CAPTION_MODEL"),
        (VLM | {"TAGSTREAM_WANT": "caption,fields"}, "or fields with TAGSTREAM_CAPTION_FILE"),
    ],
)
def test_settings_that_contradict_each_other_are_an_error(environ: dict[str, str], says: str) -> None:
    assert says in complaint(environ)


def test_an_address_writes_captions_and_is_no_bundle(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("hush\n")
    found = read(VLM | {"TAGSTREAM_CAPTION_KEY_FILE": str(key), "TAGSTREAM_CAPTIONER": "HTTPS://vlm:8000/v1/"})
    assert found.captioner_address == found.captioner == "HTTPS://vlm:8000/v1"
    assert set(found.bundles()) == {"tagger"}
    assert (found.caption_key.get_secret_value(), found.secret_files["caption_key"]) == ("hush", key)
    assert (found.caption_wait_s, found.caption_tokens_per_day, found.caption_file) == (10, 0, None)
    assert "fields" in read(VLM | {"TAGSTREAM_CAPTION_FILE": "/f", "TAGSTREAM_WANT": "caption,fields"}).want
    for other in ("template", "none", "bundles/http", f"bundles/t@sha256:{'a' * 64}"):
        assert read({"TAGSTREAM_CAPTIONER": other}).captioner_address is None


def test_work_in_progress_has_fixed_shares_of_one_memory() -> None:
    mib = 1 << 20
    for memory, settings in ((2048 * mib, read({})), (512 * mib, read({"TAGSTREAM_MEMORY": "512MiB"}))):
        assert settings.decode_memory == memory // 2
        assert settings.decoded_bytes == memory // 4
        assert settings.encoded_bytes == settings.corrections_bytes == memory // 8
        assert settings.ledger_bytes == memory // 32
        assert settings.polled_bytes == memory // 64


def test_there_are_no_more_settings_than_one_person_can_know() -> None:
    assert len(FIELDS) <= 69


def test_an_image_that_hangs_its_decoder_twice_ends_no_worker() -> None:
    settings = read({})
    assert 2 * settings.decode_timeout_s < settings.stall_timeout_s


@pytest.mark.parametrize(("session", "transaction"), [("1", 8), ("8", 10), ("60", 62)])
def test_a_transaction_ends_soon_after_the_session_of_its_worker(session: str, transaction: int) -> None:
    assert read({"TAGSTREAM_KAFKA_SESSION_TIMEOUT_S": session}).kafka_transaction_timeout_s == transaction
    assert read({}).kafka_transaction_timeout_s == 10


def test_a_wrong_value_is_reported_alone_without_its_consequences() -> None:
    assert len(complaint({"TAGSTREAM_KAFKA_SESSION_TIMEOUT_S": "0"}).splitlines()) == 1


@pytest.mark.parametrize("field", sorted(set(Settings.model_fields) - set(FIELDS)))
def test_no_variable_changes_a_constant(field: str) -> None:
    assert "is not a setting" in complaint({f"TAGSTREAM_{field.upper()}": "1"})


def test_a_required_setting_is_named_with_its_meaning() -> None:
    with pytest.raises(Misconfigured, match=r"TAGSTREAM_BUCKETS is not set. Meaning: Buckets that events may name"):
        require(Settings(kafka_servers=("a:1",)), "kafka_servers", "buckets")
    assert require(Settings(kafka_servers=("a:1",)), "kafka_servers").group == "tagstream"


def test_the_state_folder_follows_xdg(tmp_path: Path) -> None:
    assert read({"XDG_STATE_HOME": str(tmp_path)}).state_dir == tmp_path / "tagstream"
    assert read({"XDG_STATE_HOME": str(tmp_path), "TAGSTREAM_STATE_DIR": "/s"}).state_dir == Path("/s")
    assert read({}).state_dir == Path.home() / ".local/state/tagstream"


def test_the_http_endpoint_can_be_turned_off() -> None:
    assert read({"TAGSTREAM_HTTP_PORT": "off"}).http_port is None
    assert read({"TAGSTREAM_HTTP_PORT": "0"}).http_port == 0


def test_otlp_is_exported_when_opentelemetrys_own_variables_ask_for_it() -> None:
    assert not read({}).otlp_traces
    both = read({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"})
    assert (both.otlp_traces, both.otlp_metrics) == (True, True)
    traces = read({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"})
    assert (traces.otlp_traces, traces.otlp_metrics) == (True, False)
    none = read({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"})
    assert (none.otlp_traces, none.otlp_metrics) == (False, True)
    assert not read({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}).otlp_traces


AWS = {
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token",
    "AWS_ROLE_ARN": "arn:aws:iam::1:role/r",
    "AWS_ENDPOINT_URL_STS": "https://sts.example.com",
}


def test_the_web_identity_that_aws_gives_a_pod_is_used(tmp_path: Path) -> None:
    empty = tmp_path / "s3-access-key"
    empty.touch()
    for ours in ({}, {"TAGSTREAM_S3_ACCESS_KEY_FILE": str(empty), "TAGSTREAM_S3_SECRET_KEY_FILE": str(empty)}):
        found = read(AWS | ours)
        assert found.aws_web_identity_token_file == Path("/var/run/token")
        assert (found.aws_role_arn, found.aws_endpoint_url_sts) == ("arn:aws:iam::1:role/r", "https://sts.example.com")
    assert read({"AWS_ROLE_ARN": "r"}).aws_role_arn == "", "without a token it means something else"


def test_the_stores_login_has_our_keys_or_keys_of_awss_own_variables() -> None:
    file = {"AWS_SHARED_CREDENTIALS_FILE": "/credentials"}
    assert read(file).aws_shared_credentials_file == Path("/credentials")
    assert read(AWS | file).aws_shared_credentials_file is None, "a web identity goes before it"
    keys = read(AWS | file | {"TAGSTREAM_S3_ACCESS_KEY": "a", "TAGSTREAM_S3_SECRET_KEY": "b"})
    assert (keys.aws_web_identity_token_file, keys.aws_shared_credentials_file) == (None, None)


KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "t"}


def test_both_halves_of_a_key_come_from_one_place() -> None:
    found = read(AWS | KEYS | {"AWS_PROFILE": "p"})
    texts = (found.aws_access_key_id, found.aws_secret_access_key, found.aws_session_token)
    assert [text.get_secret_value() for text in texts] == ["a", "b", "t"]
    assert (found.aws_web_identity_token_file, found.aws_profile) == (None, ""), "keys go before both"
    assert set("abt") <= set(secret_values(found)), "they are masked"
    ours = read(KEYS | {"TAGSTREAM_S3_ACCESS_KEY": "ours", "TAGSTREAM_S3_SECRET_KEY": "ours"})
    assert not any((ours.aws_access_key_id, ours.aws_secret_access_key, ours.aws_session_token))
    assert "AWS_SECRET_ACCESS_KEY is not" in complaint({"AWS_ACCESS_KEY_ID": "a"})
    assert "TAGSTREAM_S3_SECRET_KEY go together" in complaint(KEYS | {"TAGSTREAM_S3_ACCESS_KEY": "a"})
    assert "TAGSTREAM_S3_SECRET_KEY go together" in complaint(KEYS | {"TAGSTREAM_S3_SECRET_KEY": "b"})


def test_the_endpoint_comes_from_our_variable_or_awss_and_one_of_them_is_required() -> None:
    aws = {"AWS_ENDPOINT_URL_S3": "https://aws.example/"}
    assert examine(Settings, aws, "s3_endpoint")[0].s3_endpoint == "https://aws.example"
    assert examine(Settings, aws, "s3_endpoint")[1] == []
    assert read(aws | {"TAGSTREAM_S3_ENDPOINT": "http://ours:9000"}).s3_endpoint == "http://ours:9000"
    assert "AWS_ENDPOINT_URL_S3" in examine(Settings, {}, "s3_endpoint")[1][0]
    assert complaint({"AWS_ENDPOINT_URL_S3": "aws.example"}).startswith("AWS_ENDPOINT_URL_S3=aws.example: ")


def test_the_region_is_aws_region() -> None:
    assert read({"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "us-east-1"}).aws_region == "eu-west-1"
    assert read({"AWS_DEFAULT_REGION": "us-east-1"}).aws_region == "us-east-1"
    msk = {"TAGSTREAM_KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "TAGSTREAM_KAFKA_SASL_MECHANISM": "AWS_MSK_IAM"}
    assert "AWS_REGION" in complaint(msk)
    assert read(msk | {"AWS_REGION": "eu-west-1"}).kafka_sasl_mechanism == "AWS_MSK_IAM"


def test_all_contradictions_are_reported_together() -> None:
    told = complaint({"TAGSTREAM_KAFKA_TLS_CERT": "/c", "TAGSTREAM_S3_ACCESS_KEY": "a"})
    assert [line.partition(" and ")[0] for line in told.splitlines()] == [
        "TAGSTREAM_KAFKA_TLS_CERT",
        "TAGSTREAM_S3_ACCESS_KEY",
    ]


def test_missing_settings_are_reported_with_contradictions() -> None:
    _, wrong = examine(
        Settings, {"TAGSTREAM_S3_ACCESS_KEY": "a", "TAGSTREAM_BUCKETS": "photos"}, "kafka_servers", "buckets"
    )
    missing, contradiction = wrong
    assert missing.startswith("TAGSTREAM_KAFKA_SERVERS is not set")
    assert "TAGSTREAM_S3_SECRET_KEY go together" in contradiction


def test_a_wrong_value_is_reported_with_missing_ones_and_does_not_count_as_missing() -> None:
    """No contradiction is made up of a default that stands in the place of a wrong value."""
    environ = {"TAGSTREAM_KAFKA_SERVERS": "nowhere", "TAGSTREAM_MEMORY": "8MiB"}
    settings, wrong = examine(Settings, environ, "kafka_servers", "buckets")
    assert settings.memory == 8 << 20
    assert [line.split()[0] for line in wrong] == ["TAGSTREAM_BUCKETS", "TAGSTREAM_KAFKA_SERVERS=nowhere:"]


def test_an_unknown_home_directory_stays_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: object) -> None:
        raise KeyError

    says = "TAGSTREAM_REDIS_URL_FILE=~nosuchuser/url can't be read: No such file or directory"
    assert complaint({"TAGSTREAM_REDIS_URL_FILE": "~nosuchuser/url"}) == says
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert read({}).state_dir == Path("~/.local/state/tagstream")
    assert read({"TAGSTREAM_LABELS_FILE": "~nosuchuser/x"}).labels_file == Path("~nosuchuser/x")


@pytest.mark.parametrize(
    ("text", "live", "background"),
    [
        ("images", ["images"], []),
        ("old:background, images,more", ["images", "more"], ["old"]),
    ],
)
def test_input_topics_have_lanes(text: str, live: list[str], background: list[str]) -> None:
    settings = Settings.model_validate({"input_topics": text})
    assert [topic.name for topic in settings.input_topics if not topic.background] == live
    assert (list(settings.background_topics), settings.live_topic) == (background, live[0])
    assert set(settings.topics) == {*live, *background}
    assert Settings.model_validate({"input_topics": ",".join(map(str, settings.input_topics))}) == settings


@pytest.mark.parametrize("text", ["", "a,a", "a,a:background", "a:background", "a:slow", "a:", ":background", "a b"])
def test_input_topics_without_a_live_one_or_twice_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"input_topics": text})
