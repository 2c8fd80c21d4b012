"""minio's client with the store's clock, and what its answers mean.

One status has many causes: 403 is a wrong key, a wrong clock, an archived object or a policy, and 400 a request that
timed out, an expired token or an object that is encrypted with its owner's key. So the error's code comes first.
"""

from __future__ import annotations

import html
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal, Self, TypeAlias

from minio import Minio
from minio.time import to_amz_date

from workers.errors import Fault

Meaning: TypeAlias = Fault | Literal["gone", "superseded"]

TOO_SKEWED: Final = "RequestTimeTooSkewed"
WRONG_SIGNATURE: Final = "SignatureDoesNotMatch"

_KEYS_REFUSED: Final = (
    "InvalidAccessKeyId SignatureDoesNotMatch ExpiredToken InvalidToken InvalidSecurity TokenRefreshRequired "
    "TokenCodeInvalidError"
)

_CODES_OF: Final[Mapping[Meaning, str]] = {
    "gone": "NoSuchKey NoSuchVersion",
    "superseded": "PreconditionFailed",
    # It fails, or asks for patience.
    "service": """
        InternalError ServiceUnavailable SlowDown SlowDownRead SlowDownWrite Busy ServerBusy RequestTimeout
        RequestLimitExceeded BandwidthLimitExceeded Throttling ThrottlingException
        TooManyRequests OperationAborted OperationTimedOut ConditionalRequestConflict RestoreAlreadyInProgress
        ResponseInterrupted ConnectionClosedByRequester IncompleteBody ClientTokenConflict
        XMinioServerNotInitialized XMinioBackendDown XMinioStorageFull XMinioReadQuorum XMinioWriteQuorum
        """,
    # The credentials, the clock or the address are wrong, for every object.
    "access": f"""
        {_KEYS_REFUSED} RequestTimeTooSkewed
        MissingAuthenticationToken MissingSecurityHeader MissingSecurityElement AccountProblem
        NotSignedUp InvalidPayer UnexpectedIPError CredentialsNotSupported NotDeviceOwnerError DeviceNotActiveError
        AuthorizationHeaderMalformed AuthorizationQueryParametersError UnsupportedSignature InvalidRegion
        NoSuchBucket InvalidBucketName InvalidBucketState AllBucketAccessDisabled NoSuchAccessPoint
        NoSuchMultiRegionAccessPoint InvalidAccessPoint InvalidAccessPointAliasError
        PermanentRedirect PermanentRedirectControlError TemporaryRedirect Redirect IncorrectEndpoint EndpointNotFound
        IllegalLocationConstraintException InvalidLocationConstraint InvalidHostHeader InvalidAddressingHeader
        """,
    # A policy, on one object or on all.
    "forbidden": """
        AccessDenied AccessForbidden AllAccessDisabled UnauthorizedAccess UnauthorizedAccessError Unauthorized Forbidden
        """,
    # About this object and no other: its key, its version, how it is stored.
    "object": """
        InvalidObjectState InvalidStorageClass ObjectNotInActiveTierError KeyTooLongError KeyTooLong
        InvalidVersionId InvalidObjectName XMinioInvalidObjectName XMinioInvalidResourceName
        XMinioObjectTampered XMinioObjectExistsAsDirectory
        SSECustomerKeyNotFound SSECustomerKeyMD5Mismatch InvalidEncryptionMethod InvalidEncryptionAlgorithmError
        InvalidSSECustomerAlgorithm InvalidSSECustomerKey MissingSSECustomerKey ObjectTampered
        """,
}
"""Every other code, as InvalidArgument (an odd key) or InvalidRequest (an object that is encrypted with its owner's
key), is "refused": a gateway may give it for everything, and only a comparison with other objects shows the cause."""

MEANINGS: Final[Mapping[str, Meaning]] = {
    code: meaning for meaning, codes in _CODES_OF.items() for code in codes.split()
}

_CODE = re.compile(rb"<(?:[A-Za-z0-9]{1,16}:)?Code>\s{0,16}([A-Za-z0-9_.-]{1,100})")
_MESSAGE = re.compile(rb"<(?:[A-Za-z0-9]{1,16}:)?Message>([^<]{1,200})")


@dataclass(frozen=True, slots=True)
class S3Answer:
    """The content of an S3 error answer.

    Args:
        code: S3's error code; empty: the body has no code, as a proxy's.
        message: at most 200 characters on one line.
    """

    status: int
    code: str = ""
    message: str = ""
    date: str = ""

    @property
    def said(self) -> str:
        """For a person: "HTTP 403 AccessDenied"."""
        return f"HTTP {self.status} {self.code}".rstrip()


def read_answer(status: int, body: bytes, date: str = "") -> S3Answer:
    """The answer in this body; two elements need no XML parser."""
    code, message = _CODE.search(body), _MESSAGE.search(body)
    return S3Answer(status, code[1].decode() if code else "", _line(message[1]) if message else "", date)


def meaning(answer: S3Answer) -> Meaning:
    """The cause of a failure, by this one answer."""
    if answer.code == "InvalidArgument" and "version id" in answer.message.lower():
        return "gone"  # an ill-formed version id, which has no code of its own
    if answer.code in MEANINGS:
        return MEANINGS[answer.code]
    status = answer.status
    if status >= 500 or status in (408, 425, 429):
        return "service"
    if status == 405:  # the requested version is a delete marker
        return "gone"
    if status == 412:
        return "superseded"
    return "forbidden" if status in (401, 403) and not answer.code else "refused"


def refuses_keys(answer: S3Answer) -> bool | None:
    """Whether the store refuses our key, signature or token; None: unknown."""
    if not answer.code or answer.code == TOO_SKEWED or meaning(answer) == "service":
        return None
    return answer.code in _KEYS_REFUSED.split()


NO_KEYS: Final = (
    "it refuses requests without a key, and no key is set: set TAGSTREAM_S3_ACCESS_KEY, AWS_ACCESS_KEY_ID, "
    "AWS_WEB_IDENTITY_TOKEN_FILE, AWS_SHARED_CREDENTIALS_FILE or AWS_PROFILE"
)


def advice(endpoint: str, bucket: str, answer: S3Answer, keys_from: str) -> str:
    """A sentence about a refusal of all objects, with its remedy.

    Args:
        keys_from: the variables or the file that hold our keys; empty: we have no keys.
    """
    if not keys_from and answer.status in (401, 403) and meaning(answer) in ("access", "forbidden"):
        return f"{endpoint}: {NO_KEYS}"
    about_region = "the bucket is in another region: correct TAGSTREAM_S3_REGION"
    about_key = f"it does not know the access key: correct {keys_from}"
    about_token = "the session token has expired or is wrong: look at what renews the credentials"
    known = {
        "NoSuchBucket": f"the bucket {bucket!r} does not exist: make it, or correct TAGSTREAM_BUCKETS",
        "InvalidAccessKeyId": about_key,
        WRONG_SIGNATURE: f"the secret key does not fit the access key: correct {keys_from}",
        "ExpiredToken": about_token,
        "InvalidToken": about_token,
        "TokenRefreshRequired": about_token,
        "AccessDenied": f"these credentials may not read or list {bucket!r}: allow them s3:GetObject and s3:ListBucket "
        "(without the latter an object that is gone looks like a forbidden one)",
        TOO_SKEWED: "its clock and ours differ by minutes: set the clock of this machine",
        "AuthorizationHeaderMalformed": about_region,
        "PermanentRedirect": about_region,
    }
    if answer.code in known:
        return f"{endpoint}: {known[answer.code]}"
    if not answer.code:
        return f"{endpoint}: {answer.said} that is not of an S3 store. Is TAGSTREAM_S3_ENDPOINT right?"
    return f"{endpoint}: it answered {answer.code} for the bucket {bucket!r}: {answer.message}".rstrip(": ")


def _line(raw: bytes) -> str:
    text = html.unescape(raw.decode("utf-8", "replace"))
    return "".join(character if character.isprintable() else " " for character in text)[:200].strip()


_log = logging.getLogger(__name__)


class S3Refusal(Exception):
    """The server answered, but not with the requested object."""

    def __init__(self, answer: S3Answer) -> None:
        super().__init__(answer.said)
        self.answer = answer

    @classmethod
    def of(cls, status: int, body: bytes, date: str) -> Self:
        """The refusal in an HTTP answer, for `ClockedPool`."""
        return cls(read_answer(status, body, date))


class SkewCorrectedMinio(Minio):
    """Signs by our clock, or by the store's once it objects. Thread-safe.

    A signature holds for 15 minutes, and our clock may be off by more. The store's time is carried on by the monotonic
    clock, so that a wall clock that jumps again changes nothing.
    """

    _began: datetime | None = None
    """The store's time when our monotonic clock stood at 0."""

    def take_time_of(self, answer: S3Answer) -> bool:
        """Take the store's time from an answer; False: it lacks a time."""
        try:
            now = parsedate_to_datetime(answer.date).astimezone(UTC)
            self._began = now - timedelta(seconds=time.monotonic())
        except (ValueError, OverflowError):
            return False
        off_by = (datetime.now(UTC) - now).total_seconds()
        _log.warning("this clock differs from the object store's by %.0f s: signing with the store's time", off_by)
        return True

    def _build_headers(self, *arguments: Any, **more: Any) -> tuple[Any, datetime]:
        """Sign with the store's time; minio asks for the time only here, as a test checks."""
        headers, date = super()._build_headers(*arguments, **more)
        if self._began is not None:
            date = self._began + timedelta(seconds=time.monotonic())
            headers["x-amz-date"] = to_amz_date(date)
        return headers, date
