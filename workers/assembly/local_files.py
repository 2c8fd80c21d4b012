"""Runs local files through the worker's intake and models. Needs neither Kafka nor a store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from schemas.image_event import ImageEvent
from schemas.result_kinds import ResultKind
from schemas.writing import Fields
from workers.assembly.decoders import intake, limits
from workers.assembly.needs import IMAGES
from workers.errors import Gone, Misconfigured, Rejected, Unanswered, Unavailable
from workers.files import read_regular_file
from workers.intake.geometry import unpadded
from workers.models.result_kinds import added_kinds
from workers.pipeline.answers import caption_of, one_each, result_of, scores_of
from workers.pipeline.captioning import Template
from workers.pipeline.profiles import Profile, make_profile
from workers.ports import Captioner, Intake, ObjectStore, RemoteCaptioner, ResultModel, Tagger
from workers.settings import FIELDS_KIND, Settings
from workers.types import (
    Assignment,
    Coordinates,
    DecodedImage,
    Facts,
    ImageAbout,
    Job,
    ObjectVersion,
    Partition,
    PictureFacts,
    Pixels,
    RemoteAnswer,
    StoredObject,
    Transform,
)

BATCH = 8
"""Images that are read, decoded and computed together."""
_FILES = Partition("files", 0)
_S3 = "s3://"

Made = TypeVar("Made")


class LocalFiles:
    """An object store (`workers.ports.ObjectStore`) of these files: the key of each is its number in the list."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def get(self, bucket: str, key: str, *, max_bytes: int, **_: Any) -> StoredObject:
        try:
            body = read_regular_file(self.paths[int(key)], max_bytes)
        except FileNotFoundError:
            raise Gone("there is no such file") from None
        except OSError as error:
            raise Unavailable("file", error.strerror or "it can't be read", fault="object") from None
        if not body:
            raise Rejected("fetch", "empty-object", "it has no bytes")
        return StoredObject(body, "", None, "")

    def head(self, bucket: str, key: str, *, deadline_s: float) -> ObjectVersion:
        raise NotImplementedError("no event of a file asks for the newest version")


class StoredFiles(LocalFiles):
    """As `LocalFiles`, with objects of a store (s3://bucket/key) among them."""

    def __init__(self, names: Sequence[str], folder: Path, store: ObjectStore) -> None:
        super().__init__([Path(name) if name.startswith(_S3) else folder / name for name in names])
        self._names = names
        self._store = store

    def get(self, bucket: str, key: str, **options: Any) -> StoredObject:
        name = self._names[int(key)]
        if not name.startswith(_S3):
            return super().get(bucket, key, **options)
        bucket, _, key = name.removeprefix(_S3).partition("/")
        return self._store.get(bucket, key, **options)


@dataclass(frozen=True, slots=True)
class TaggedFile:
    """The models' answers for one file.

    Args:
        tags: (name, score), best first.
        parents: wider names of each tag, nearest first; may be empty.
        told: facts of the picture; None: TAGSTREAM_FACTS is off.
        results: of added roles, as JSON values.
        picture: the image, small and upright, if wanted.
        missing: why a service gave no caption.
    """

    path: Path
    tags: Sequence[tuple[str, float]]
    caption: str | None
    facts: Facts
    picture: Pixels | None = None
    parents: Sequence[Sequence[str]] = ()
    told: PictureFacts | None = None
    results: Mapping[ResultKind, Fields] = field(default_factory=dict)
    missing: Unanswered | None = None


@dataclass(frozen=True, slots=True)
class FailedFile:
    """Why one file could not be tagged: a dead letter's reason, and a sentence."""

    path: Path
    reason: str
    detail: str


@dataclass(eq=False)
class FileTagger:
    """Tags files in order, a few at a time.

    Args:
        intake: reads `files`, and decodes for all models.
        profile: the thresholds above which a tag is shown.
        captioner: writes captions under the tags; None: `template` does, or nothing.
        remote: writes them, and results of the kind `fields`, in its place.
        picture: a "pad" that `intake` makes too: results come with it.
    """

    files: LocalFiles
    intake: Intake
    tagger: Tagger
    profile: Profile
    max_bytes: int
    captioner: Captioner | None = None
    template: Template | None = None
    remote: RemoteCaptioner | None = None
    added: Mapping[ResultKind, ResultModel] = field(default_factory=dict)
    picture: Transform | None = None

    def results(self) -> Iterator[TaggedFile | FailedFile]:
        """Yield a result for each file, in order.

        Raises Broken: no decoder can be kept alive, or a model's answers are none.
        """
        for first in range(0, len(self.files.paths), BATCH):
            numbers = range(first, min(first + BATCH, len(self.files.paths)))
            failed: dict[int, FailedFile] = {}
            tagged = self._tagged(self._decoded(numbers, failed))
            yield from (failed[number] if number in failed else tagged[number] for number in numbers)

    def answers(self) -> Iterator[tuple[int, Any] | FailedFile]:
        """Yield each file's number and raw answer, in order. Raises Broken: as `results`."""
        for first in range(0, len(self.files.paths), BATCH):
            numbers = range(first, min(first + BATCH, len(self.files.paths)))
            failed: dict[int, FailedFile] = {}
            decoded = self._decoded(numbers, failed)
            pixels = [image.pixels[self.tagger.transform] for _, image in decoded.values()]
            found = one_each(self.tagger, self.tagger.forward(pixels), len(pixels)) if pixels else ()
            answers = dict(zip(decoded, found, strict=True))
            yield from (failed[number] if number in failed else (number, answers[number]) for number in numbers)

    def _decoded(self, numbers: Sequence[int], failed: dict[int, FailedFile]) -> dict[int, tuple[Facts, DecodedImage]]:
        """Take a batch's files through the intake; failures go to `failed`."""
        intake = self.intake
        fetched = self._done({number: intake.fetch(file_job(number), self.max_bytes) for number in numbers}, failed)
        facts = self._done({number: intake.inspect(held) for number, held in fetched.items()}, failed)
        images = self._done({number: intake.decode(fetched[number], each) for number, each in facts.items()}, failed)
        return {number: (facts[number], image) for number, image in images.items()}

    def _done(self, futures: Mapping[int, Future[Made]], failed: dict[int, FailedFile]) -> dict[int, Made]:
        done: dict[int, Made] = {}
        for number, future in futures.items():
            try:
                done[number] = future.result()
            except Rejected as error:
                failed[number] = FailedFile(self.files.paths[number], error.reason, error.detail)
            except Gone as error:
                failed[number] = FailedFile(self.files.paths[number], "no-such-file", str(error))
            except Unavailable as error:
                failed[number] = FailedFile(self.files.paths[number], "unreadable", error.detail)
        return done

    def _tagged(self, decoded: Mapping[int, tuple[Facts, DecodedImage]]) -> dict[int, TaggedFile]:
        if not decoded:
            return {}
        images = [image for _, image in decoded.values()]
        pixels = [image.pixels[self.tagger.transform] for image in images]
        answers = one_each(self.tagger, self.tagger.forward(pixels), len(pixels))
        chosen = [self.profile.select(scores_of(self.tagger, answer)) for answer in answers]
        captions = self._captions(images, chosen)
        results = self._results(list(decoded.values()))
        wider: Sequence[Sequence[str]] = getattr(self.tagger, "parents", ())  # taggers from elsewhere may have none
        tagged = {
            number: TaggedFile(
                self.files.paths[number],
                [(self.tagger.labels[label], score) for label, score in tags],
                caption,
                facts,
                None if self.picture is None else unpadded(self.picture, image, facts),
                [wider[label] for label, _ in tags] if wider else (),
                image.facts,
                of_roles,
            )
            for (number, (facts, image)), tags, caption, of_roles in zip(
                decoded.items(), chosen, captions, results, strict=True
            )
        }
        return tagged if self.remote is None else self._asked(self.remote, tagged, decoded)

    def _asked(
        self, remote: RemoteCaptioner, tagged: dict[int, TaggedFile], decoded: Mapping[int, tuple[Facts, DecodedImage]]
    ) -> dict[int, TaggedFile]:
        """These files with a service's answers; a batch is sent together."""
        futures: dict[int, Future[RemoteAnswer]] = {}
        for number, (facts, image) in decoded.items():
            jpeg = remote.encode(image.pixels[remote.transform], ImageAbout.in_file(facts, image.facts))
            futures[number] = remote.ask(jpeg, [name for name, _ in tagged[number].tags], _FILES, lambda _: None)
        for number, future in futures.items():
            file = tagged[number]
            try:
                answer = future.result()
            except Unanswered as error:
                tagged[number] = replace(file, missing=error)
                continue
            fields = {} if answer.fields is None else {added_kinds()[FIELDS_KIND]: dict(answer.fields)}
            tagged[number] = replace(file, caption=answer.caption.text, results={**file.results, **fields})
        return tagged

    def _results(self, decoded: Sequence[tuple[Facts, DecodedImage]]) -> Sequence[Mapping[ResultKind, Fields]]:
        found: list[dict[ResultKind, Fields]] = [{} for _ in decoded]
        about = [ImageAbout.in_file(facts, image.facts) for facts, image in decoded]
        for kind, model in self.added.items():
            answers = model.forward([image.pixels[model.transform] for _, image in decoded], about)
            for results, answer in zip(found, one_each(model, answers, len(decoded)), strict=True):
                results[kind] = result_of(model, kind.result, answer)
        return found

    def _captions(
        self, images: Sequence[DecodedImage], chosen: Sequence[Sequence[tuple[int, float]]]
    ) -> Sequence[str | None]:
        """Captions under the tags: in label order for a captioner, best first for a template."""
        labels = self.tagger.labels
        captioner = self.captioner
        if captioner is None:
            made = [self.template([labels[label] for label, _ in tags]) if self.template else None for tags in chosen]
            return [None if caption is None else caption.text for caption in made]
        guides = [captioner.guide([labels[label] for label, _ in sorted(tags)]) for tags in chosen]
        answers = captioner.forward([image.pixels[captioner.transform] for image in images], guides)
        return [caption_of(captioner, answer).text for answer in one_each(captioner, answers, len(images))]


def answers_of(settings: Settings, files: LocalFiles, model: Any) -> Iterator[tuple[int, Any] | FailedFile]:
    """Each file's number and a model's answer, or the failure. Raises Broken: as `FileTagger.results`."""
    with contextlib.closing(intake(settings, [model.transform], files)) as made:
        most = limits(settings).max_object_bytes
        yield from FileTagger(files, made, model, make_profile("", ()), max_bytes=most).answers()


def image_files(arguments: Sequence[Path]) -> list[Path]:
    """The named files and the images of named folders, by name.

    A folder's images are found by their endings. A name that is neither file nor folder, and a folder that can't be
    listed, stay in the list: reading them tells the error. Raises Misconfigured: there is none, or nothing is there by
    any of these names.
    """
    if not any(map(os.path.lexists, arguments)):
        raise Misconfigured(f"{', '.join(map(str, arguments))}: there is no such file or folder")
    found: list[Path] = []
    for path in arguments:
        found += _below(path) if path.is_dir() else [path]
    if not found:
        raise Misconfigured(f"{', '.join(map(str, arguments))}: there are no images ({', '.join(sorted(IMAGES))})")
    return found


def _below(folder: Path) -> list[Path]:
    unlisted: list[Path] = []
    walked = os.walk(folder, onerror=lambda error: unlisted.append(Path(error.filename)))
    files = [Path(place, name) for place, _, names in walked for name in names]
    return sorted([*(file for file in files if file.suffix.lower() in IMAGES), *unlisted])


def file_job(number: int) -> Job:
    event = ImageEvent(id=str(number), dialect="own", action="enrich", index=0, bucket=_FILES.topic, key=str(number))
    return Job(Coordinates(*_FILES, number, 0), Assignment(_FILES, ""), event, original=True)
