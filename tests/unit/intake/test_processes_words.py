"""What codecs write to standard error: in the verdict of the image that they wrote about, counted, and nowhere else."""

from collections.abc import Iterator

import pytest

from tagstream_testing.memory import MemoryObjectStore
from tests.contract.test_intake import job
from tests.support.images import encoded, noise, tiff_that_its_codec_complains_of
from tests.unit.intake.deadly import LARGEST
from workers import metrics
from workers.errors import Rejected
from workers.intake import ProcessIntake
from workers.intake.processes.wire import PIPE_BYTES, last_words, make_pipe
from workers.types import Transform

LZW, ZIP = "Using code not yet in table", "ZIPDecode: Decoding error at scanline 0"


@pytest.fixture
def intake() -> Iterator[ProcessIntake]:
    store = MemoryObjectStore()
    store.put("photos", "lzw", tiff_that_its_codec_complains_of("tiff_lzw"))
    store.put("photos", "zip", tiff_that_its_codec_complains_of("tiff_adobe_deflate"))
    store.put("photos", "good", encoded(noise(64, 64), "tiff"))
    store.put("photos", "cut", encoded(noise(64, 64), "jpeg")[:-600])
    made = ProcessIntake(store, (Transform(8),), children=1)
    yield made
    made.close()


@pytest.mark.slow
def test_a_verdict_has_the_codecs_words_about_its_own_image(
    intake: ProcessIntake, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Several are in a child's hands at once."""
    lines: list[tuple[float, str]] = []
    monkeypatch.setattr(metrics.STDERR_LINES, "add", lambda amount, of: lines.append((amount, of)))
    names = ["lzw", "zip", "good", "cut"] * 5
    fetched = [intake.fetch(job(name), LARGEST).result(30) for name in names]
    facts = [future.result(30) for future in [intake.inspect(each) for each in fetched]]
    decoded = [intake.decode(*each) for each in zip(fetched, facts, strict=True)]
    for name, future in zip(names, decoded, strict=True):
        error = future.exception(30)
        if name == "good":
            assert error is None
            continue
        assert isinstance(error, Rejected)
        assert (LZW in error.detail, ZIP in error.detail) == (name == "lzw", name == "zip")
    assert lines == [(1, "decoder")] * 10
    assert capfd.readouterr().err == ""


def test_text_beyond_a_pipes_size_is_dropped() -> None:
    ours, theirs = make_pipe()
    with open(ours, "rb"), open(theirs, "wb", buffering=0) as stderr:
        assert last_words(ours) == (0, "")
        while stderr.write(b"x" * 99 + b"\n"):
            pass
        lines, words = last_words(ours)
        assert 100 < lines <= PIPE_BYTES // 100 + 1
        assert last_words(ours) == (0, "")
    assert words.startswith("xxx")
