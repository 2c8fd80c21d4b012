"""Records of the output and corrections topics, read by the audit, for a training set, and as corrections."""

import json
from collections.abc import Iterator

from schemas.correction import Corrections, correction, withdrawal
from schemas.image_event import MAX_RECORDS
from schemas.text import first_fault
from tagstream_train.data.samples import write_dataset
from tagstream_train.engine.collect import CollectedLabels, Collection, sample_of
from tests.fuzz.fuzzer import Bounds, Target, sentence
from tests.fuzz.mutators import NULL, Parts, headers, nullable
from tests.fuzz.targets.files import Folder
from tests.unit.audit.history import DEAD, IN, OUT, dead_letter, judged, outcome, record
from training.tests.unit.engine.test_collect import SHA, gone, image
from workers.audit.claims import claim_of, count_events
from workers.cli.correct import _records
from workers.errors import Misconfigured
from workers.types import Partition, ReadRecord

_folder = Folder()


def histories() -> Iterator[Parts]:
    """A message, an outcome of it, and names and values of a dead letter's headers."""
    for events, indexes in ((1, (0,)), (2, (1,)), (3, (1, 2))):
        letter = dead_letter(0, indexes, at=(DEAD, 0, 0))
        named = [part for name, content in letter.headers for part in (name.encode(), content or b"")]
        message = record(0, events).value or b""
        yield (message, outcome(0, at=(OUT, 0, 0)).value or b"", *named)
        yield (message, outcome(0, at=(OUT, 0, 0), status="partial", schema="skipped/1").value or b"", *named)
    yield (b"{}", NULL, *named)


def audited(parts: Parts) -> str:
    """Invalid outcomes prove nothing, and no event is answered twice where each outcome comes once."""
    message, shown = (*map(nullable, parts[:2]), None, None)[:2]
    named = headers(parts[2:])
    asked = ReadRecord(IN, 0, 0, 0, b"k", message, named)
    outcomes = [ReadRecord(OUT, 0, 0, 0, b"k", shown, ()), ReadRecord(DEAD, 0, 0, 0, b"k", b"", named)]
    claims = [claim for each in outcomes if (claim := claim_of(each.value, each.headers)) is not None]
    events = count_events(message, named)
    assert 0 < events <= MAX_RECORDS
    assert all(0 < claim.events < 1 << MAX_RECORDS for claim in claims)
    report = judged([asked], outcomes, ranges={0: (0, 1)})
    mine = [claim for claim in claims if claim[:3] == (IN, 0, 0)]
    answered = 0
    for claim in mine:
        answered |= ~0 if claim.kind == "record" else claim.events
    whole = answered == ~0 or answered.bit_length() == answered.bit_count() == events
    assert whole or not report.proved
    assert report.strange + report.tombstones == len(outcomes) - len(claims)
    assert json.loads(json.dumps(report.as_json()))["records"] == 1
    assert all(str(found).isprintable() for told in report.findings.values() for found in told)
    return "proved" if report.proved else " ".join(sorted(report.counts))


def enriched_topic() -> Iterator[Parts]:
    """Values of the enriched topic, and of the corrections topic among them."""
    first = image("a b/ü.jpg", "dog", "cat", at=9).to_bytes()
    said = correction("photos", "a b/ü.jpg", added=["fish"], removed=["cat"], sha256=SHA).value or b""
    yield (first, said)
    yield (first, image("a b/ü.jpg", "dog", at=10).to_bytes())
    yield (image("b.jpg", "dog").to_bytes(), gone("b.jpg", 1).to_bytes(), first)
    yield (image("c.jpg", version_id="v1").to_bytes(), gone("c.jpg", version_id="v1").to_bytes())


def collected(parts: Parts) -> str:
    """From any topic, a set is made of the valid records, and reads back as written."""
    folder = _folder.fresh()
    corrections, kept = Corrections(), 0
    with Collection(folder / "collected.sqlite") as collection:
        for part in parts:
            try:
                collection.take(nullable(part))
                kept += 1
            except ValueError as error:
                sentence(ValueError(first_fault(error)))
            try:
                corrections.take(b"photos/b.jpg", part)
            except ValueError as error:
                sentence(error)
        collection.commit({Partition("out", 0): len(parts)})
        labels = CollectedLabels()
        try:
            samples = [sample_of(found, labels, corrections) for found in collection.images()]
            dataset = write_dataset(folder, samples, labels.names, name="few")
        except Misconfigured as error:
            sentence(error)
            return "refused"
        assert len(samples) == len(collection)
    assert list(dataset) == list(dataset.lines()) == samples
    return f"{min(kept, 3)} taken, {min(len(samples), 3)} written"


def corrected() -> Iterator[Parts]:
    """Keys and values by turns; the values are the lines of a file too."""
    one = correction("photos", "a.jpg", added=["dog", "ü"], removed=["cat"], by="me", at="2026-01-02T03:04:05Z")
    other = correction("photos", "a.jpg", removed=["dog"], sha256=SHA, model="b" * 64)
    yield (one.key, one.value or b"")
    yield (one.key, one.value or b"", other.key, other.value or b"", withdrawal("photos", "a.jpg").key, NULL)


def told(parts: Parts) -> str:
    """Corrections add up, their bytes return to zero, and each line of a file is a correction or named."""
    corrections, taken = Corrections(), 0
    for key, value in zip(parts[::2], parts[1::2], strict=False):
        before = corrections.bytes
        try:
            corrections.take(key, nullable(value))
            taken += 1
        except ValueError as error:
            sentence(error)
            assert corrections.bytes == before
    for subject in corrections:
        if word := corrections.on(subject, SHA):
            assert not set(word.added) & set(word.removed)
            assert all(name.isprintable() for name in (*word.added, *word.removed))
    path = _folder.fresh() / "corrections.jsonl"
    path.write_bytes(b"\n".join(parts[1::2]))
    sent = 0
    try:
        for each in _records(path):
            Corrections().take(*each)
            sent += 1
    except Misconfigured as error:
        sentence(error)
    for subject in corrections:
        corrections.take(subject.encode(), None)
    assert (len(corrections), corrections.bytes) == (0, 0)
    return f"{min(taken, 3)} taken, {min(sent, 3)} sent"


_FILES = Bounds(seconds=0.5, seconds_per_mib=8.0, mib=48.0, mib_per_mib=64.0)

TARGETS = (
    Target("audited", histories, audited),
    Target("collected", enriched_topic, collected, bounds=_FILES, close=_folder.remove),
    Target("corrections", corrected, told, bounds=_FILES, close=_folder.remove),
)
