"""The cause of an S3 error, for every code that S3 defines."""

import pytest

from workers.backends.s3.client import MEANINGS, S3Answer, advice, meaning, read_answer


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "RequestTimeout", "service"),
        (403, "RequestTimeTooSkewed", "access"),
        (503, "SlowDown", "service"),
        (409, "OperationAborted", "service"),
        (403, "InvalidAccessKeyId", "access"),
        (400, "ExpiredToken", "access"),
        (301, "PermanentRedirect", "access"),
        (404, "NoSuchBucket", "access"),
        (403, "AccessDenied", "forbidden"),
        (403, "AllAccessDisabled", "forbidden"),
        (403, "SignatureDoesNotMatch", "access"),
        (400, "InvalidRequest", "refused"),
        (400, "KMS.DisabledException", "refused"),
        (403, "InvalidObjectState", "object"),
        (400, "KeyTooLongError", "object"),
        (400, "InvalidArgument", "refused"),
        (404, "NoSuchKey", "gone"),
        (404, "NoSuchVersion", "gone"),
        (405, "MethodNotAllowed", "gone"),
        (412, "PreconditionFailed", "superseded"),
        (501, "NotImplemented", "service"),
        (418, "", "refused"),
        (401, "", "forbidden"),
        (408, "", "service"),
        (412, "", "superseded"),
        (425, "", "service"),
        (429, "", "service"),
        (500, "", "service"),
        (403, "", "forbidden"),
        (599, "", "service"),
    ],
)
def test_a_code_means(status: int, code: str, expected: str) -> None:
    assert meaning(S3Answer(status, code)) == expected


def test_an_ill_formed_version_id_counts_as_a_missing_version() -> None:
    assert meaning(S3Answer(400, "InvalidArgument", "Invalid version id specified")) == "gone"
    assert meaning(S3Answer(400, "InvalidRequest", "Invalid version id specified")) == "refused"


def test_a_code_means_the_same_whatever_the_status() -> None:
    for code in MEANINGS:
        assert len({meaning(S3Answer(status, code)) for status in (200, 301, 400, 403, 404, 409, 500, 503)}) == 1


def test_a_body_is_read_for_its_code_and_message_alone() -> None:
    body = (
        b"<?xml version='1.0'?><s3:Error xmlns:s3='x'><s3:Code> SlowDown </s3:Code><s3:Message>a &lt;b\n</s3:Message>"
    )
    assert read_answer(503, body, "now") == S3Answer(503, "SlowDown", "a <b", "now")
    assert read_answer(503, b"\xff\x00<Code>" + b"x" * 500) == S3Answer(503, "x" * 100)
    assert read_answer(503, b"") == S3Answer(503)


def test_advice_names_endpoint_and_remedy_and_no_markup_of_the_stores() -> None:
    said = advice("http://s3:1", "photos", S3Answer(403, "SignatureDoesNotMatch", "x" * 200), "KEY and SECRET")
    assert said == "http://s3:1: the secret key does not fit the access key: correct KEY and SECRET"
    assert "TAGSTREAM_S3_ENDPOINT" in advice("http://s3:1", "photos", S3Answer(404), "KEY and SECRET")


@pytest.mark.parametrize(
    ("status", "code", "ours"),
    [
        (403, "AccessDenied", True),
        (401, "", True),
        (403, "InvalidObjectState", False),  # an archived object
        (404, "NoSuchBucket", False),
        (503, "SlowDown", False),
    ],
)
def test_only_a_refusal_for_want_of_rights_is_put_down_to_a_missing_key(status: int, code: str, ours: bool) -> None:
    said = advice("http://s3:1", "photos", S3Answer(status, code), keys_from="")
    assert ("AWS_ACCESS_KEY_ID" in said) == ours
