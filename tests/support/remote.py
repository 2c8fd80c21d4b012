"""A captioner elsewhere that the test plays: it answers at once, or when the test says so."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict

from schemas.result_kinds import ResultKind
from workers.errors import Unanswered
from workers.types import Caption, ImageAbout, Partition, Pixels, RemoteAnswer, TokenUsage, Transform


class Counted(BaseModel):
    """The fields of a test's schema."""

    model_config = ConfigDict(extra="forbid", strict=True)

    people: int
    place: str


class _Any(BaseModel):
    model_config = ConfigDict(extra="allow")


class AnyFields(ResultKind):
    """The kind of an answer's fields: any object."""

    name = "fields"
    result = _Any
    bundle_kind = ""

    def words(self, result: dict[str, Any]) -> str:
        return " ".join(value for value in result.values() if isinstance(value, str))

    def build(self, bundle: Any, device: Any, precision: Any) -> Any:
        raise AssertionError("fields come with a remote caption")


def an_answer(text: str = "a dog", fields: Mapping[str, Any] | None = None) -> RemoteAnswer:
    return RemoteAnswer(Caption(text, None, "remote", "vlm@main", TokenUsage(72, 9)), fields)


@dataclass(eq=False)
class Asked:
    """A question to the captioner."""

    jpeg: bytes
    tags: Sequence[str]
    partition: Partition
    late: Callable[[RemoteAnswer], None]
    background: bool
    future: Future[RemoteAnswer] = field(default_factory=Future)


class PlayedCaptioner:
    """`ports.RemoteCaptioner`; `answer` is given at once, None lets images wait."""

    name = "vlm"
    digest = "9" * 64
    transform = Transform(12, "pad")

    def __init__(
        self,
        answer: RemoteAnswer | Unanswered | None = None,
        *,
        guided: bool = True,
        fields: type[BaseModel] | None = None,
    ) -> None:
        self.answer = answer
        self.guided = guided
        self.fields = fields
        self.asked: list[Asked] = []
        self.seen: list[tuple[tuple[int, ...], ImageAbout]] = []
        self.wrong: str | None = None
        self.started = self.closed = False

    def encode(self, pixels: Pixels, about: ImageAbout) -> bytes:
        self.seen.append((pixels.shape, about))
        return b"a jpeg of 24 small bytes"

    def ask(
        self,
        jpeg: bytes,
        tags: Sequence[str],
        partition: Partition,
        late: Callable[[RemoteAnswer], None],
        *,
        background: bool = False,
    ) -> Future[RemoteAnswer]:
        asked = Asked(jpeg, tuple(tags), partition, late, background)
        self.asked.append(asked)
        if isinstance(self.answer, Unanswered):
            asked.future.set_exception(self.answer)
        elif self.answer is not None:
            asked.future.set_result(self.answer)
        return asked.future

    def start(self) -> None:
        self.started = True

    def unready(self) -> str | None:
        return self.wrong

    def close(self) -> None:
        self.closed = True
