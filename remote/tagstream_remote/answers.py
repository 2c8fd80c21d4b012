"""What a service's answer means: a caption, or why there is none. All that it says is data, and bounded."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Collection, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from schemas.printable import printable
from schemas.text import first_fault
from workers.errors import Fault, TagstreamError, Unanswered, Unavailable
from workers.types import Caption, RemoteAnswer, TokenUsage

CAPTION_MAX: Final = 4000  # characters
LONGEST_PAUSE_S: Final = 3600.0
_BLANKS: Final = 64  # so many at the end of a cut answer: the model writes them for as long as it may
_JOINERS: Final = "\u200c\u200d"  # invisible, but letters of Persian and Indic words, and of emoji
_OUT_OF_ROOM: Final = re.compile(
    "context.?(size|length|window)|maximum model length|encoder cache|too (large|long)|exceeds? the", re.IGNORECASE
)
_NO_MONEY: Final = re.compile("insufficient_quota|credit_balance_exhausted|spend_limit_exceeded|billing_hard_limit")
_FILTERED: Final = re.compile("content_?filter|content_policy|moderation", re.IGNORECASE)
_NO_MODEL: Final = re.compile("not.?found|not exist|no such|unknown|invalid|pinned|not (available|loaded|served)", re.I)


class Misplaced(TagstreamError):
    """Settings are wrong, or no money is left. `detail` says what to change; `paid`: to learn it again costs tokens."""

    def __init__(self, detail: str, *, paid: bool = False) -> None:
        super().__init__(detail)
        self.detail, self.paid = detail, paid


class Away(Unavailable):
    """The service gives no usable answer at present. `retry_after_s` is its own word, bounded."""

    def __init__(self, detail: str, *, retry_after_s: float | None = None, fault: Fault = "service") -> None:
        super().__init__("captioner", detail, fault=fault)
        self.retry_after_s = retry_after_s


class Again(TagstreamError):
    """Another request may help; if that was sent already, raise `otherwise`.

    `how`: "smaller" (half the side), "longer" (twice the tokens), "free" (without the schema), or a field not taken.
    """

    def __init__(self, how: str, otherwise: Unanswered) -> None:
        super().__init__(f"{how}: {otherwise}")
        self.how, self.otherwise = how, otherwise


def document_of(text: str | bytes) -> dict[str, Any]:
    """The JSON object that a text is; empty if it is another value, broken, or nested too deep."""
    try:
        return _object(from_json(text, allow_inf_nan=False))
    except ValueError:
        return {}


def usage_of(document: Mapping[str, Any]) -> TokenUsage | None:
    """What an answer cost, as it says; None if it does not."""
    usage = _object(document.get("usage"))
    counts: list[Any] = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    return TokenUsage(*counts) if all(type(each) is int and 0 <= each <= 10**9 for each in counts) else None


def answer_of(document: Mapping[str, Any], model: str, fields: type[BaseModel] | None) -> RemoteAnswer:
    """The caption and the fields of an answer with status 200. A caption alone may also come as plain text.

    Raises Unanswered, Again (it ends at the limit) or Misplaced (another model has answered).
    """
    answered = printable(_text(document.get("model"))[:256])
    if answered and not is_same(model, answered):
        detail = f"{model!r} was asked, and {answered!r} has answered: set TAGSTREAM_CAPTION_MODEL to that name"
        raise Misplaced(detail, paid=True)
    choices = document.get("choices")
    choice = _object(choices[0]) if isinstance(choices, list) and choices else {}
    message, finish = _object(choice.get("message")), choice.get("finish_reason")
    refusal, content = _text(message.get("refusal")), _text(message.get("content"))
    if refusal or finish == "content_filter":
        raise Unanswered("caption-refused", f"the model refused: {_line(refusal or 'content_filter')}")
    text = _unwrapped(content)
    found = document_of(text)
    if not found and finish == "length":
        blank = len(content) - len(content.rstrip()) >= _BLANKS
        detail = "the answer does not end: turn off the model's thinking at the service, or demand less in the prompt"
        raise Again("free" if blank else "longer", Unanswered("caption-refused", detail))
    if not found and (fields is not None or finish != "stop" or text.startswith(("{", "["))):
        raise Unanswered("caption-refused", f"the answer is no JSON of the schema (it ended by {_line(str(finish))!r})")
    caption = clean(_text(found.pop("caption", None)) if found else text)
    if not 1 <= len(caption) <= CAPTION_MAX:
        raise Unanswered("caption-refused", f"a caption of {len(caption):,} characters, not 1 to {CAPTION_MAX:,}")
    written = Caption(caption, None, "remote", answered or None, usage_of(document))
    if fields is None:
        return RemoteAnswer(written, None)
    try:
        return RemoteAnswer(written, fields.model_validate(found).model_dump(by_alias=True))
    except ValidationError as error:
        raise Unanswered("caption-refused", f"the answer is not of the schema: {_line(first_fault(error))}") from None


def clean(text: str) -> str:
    """One line without control and direction characters. Markup stays."""
    return "".join(each for each in " ".join(text.split()) if each.isprintable() or each in _JOINERS).strip()


def fault_of(
    status: int, headers: Mapping[str, str], document: Mapping[str, Any], model: str, sent: Collection[str]
) -> TagstreamError:
    """Whose fault an error is. With status 200 the body holds it; `sent` are optional fields of the question."""
    code, said = _error(document)
    if status == 200:
        status = int(code[:3]) if re.match(r"[45]\d\d\b", code) else 500
    answers = f"the service answers {status}{f' ({_line(said)})' if said else ''}"
    if status == 402 or _NO_MONEY.search(code):
        return Misplaced(f"{answers}: add money or raise the limit at the service")
    if _FILTERED.search(f"{code} {said}" if status in (400, 403) else code):
        return Unanswered("caption-refused", answers)
    if status in (401, 403):  # what it says may repeat the key
        return Misplaced(f"the service answers {status}: set TAGSTREAM_CAPTION_KEY to a key that may use {model!r}")
    if status in (404, 405) or 300 <= status < 400:
        return Misplaced(f"{answers}: check TAGSTREAM_CAPTION_MODEL, and TAGSTREAM_CAPTIONER's path, such as /v1")
    failed = Unanswered("caption-failed", answers)
    pauses = status in (407, 408, 425, 429, 502, 503, 504)
    if sent and (status == 413 or (not pauses and _OUT_OF_ROOM.search(f"{code} {said}"))):
        return Again("smaller", failed)
    if pauses or not 400 <= status < 500:
        return Away(answers, retry_after_s=_pause_s(headers.get("retry-after", "")[:64]))
    for name in sent:
        if re.search(rf"\b{name}\b", said) or (name == "response_format" and "json_schema" in said):
            return Again(name, failed)
    if model in said and _NO_MODEL.search(f"{code} {said.replace(model, '')}"):  # an error of an image may name it too
        return Misplaced(f"{answers}: check TAGSTREAM_CAPTION_MODEL")
    return failed


def _error(document: Mapping[str, Any]) -> tuple[str, str]:
    """Code and text of an error, which has several forms."""
    error = document.get("error") or document.get("detail") or document.get("message")
    if isinstance(error, list):  # each has the whole request too
        error = "; ".join(f"{each.get('loc')}: {each.get('msg')}"[:200] for each in map(_object, error[:10]))
    about = _object(error)
    said = _text(error) or f"{_text(about.get('message'))} {_text(about.get('param'))}".strip()
    return f"{about.get('code') or ''} {about.get('type') or ''}"[:200], said[:2000]


def _pause_s(said: str) -> float | None:
    """Retry-After, which is seconds or a date."""
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_PAUSE_S)


def _unwrapped(content: str) -> str:
    """An answer without its thoughts, code fence and preamble."""
    text = content.rpartition("</think>")[2].strip()
    if text.startswith("<think>"):
        return ""
    parts = text.split("```", 2)
    return parts[1].strip().removeprefix("json").strip() if len(parts) > 1 else text


def is_same(asked: str, answered: str) -> bool:
    """Whether both names are one model's. Folder, revision, tag and date may be missing in one."""
    one, other = (name.lower().partition("@")[0].rpartition("/")[2] for name in (asked, answered))
    if ":" not in one or ":" not in other:
        one, other = one.partition(":")[0], other.partition(":")[0]
    return one == other or re.fullmatch(r"-\d[\d-]*", other.removeprefix(one)) is not None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _line(text: str) -> str:
    return clean(text[:2000])[:200]
