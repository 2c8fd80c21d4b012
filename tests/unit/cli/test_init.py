"""`tagstream init`: what it asks, what it writes, and what it never does."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from tests.unit.cli.conftest import Tagstream
from workers.cli.init import MATTERING, parse_env_file, written
from workers.environment import FIELDS, examine, read, variable

NEEDED = ("--kafka-servers", "kafka:9092", "--s3-endpoint", "http://minio:9000", "--buckets", "photos,it's")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "my settings.env"


def test_what_it_writes_is_what_env_file_reads(file: Path, tmp_path: Path, tagstream: Tagstream) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    more = ("--s3-access-key", "a", "--s3-secret-key-file", secret, "--redis-url", "redis://u:p%40@h:6379/0")
    ran = tagstream("init", file, *NEEDED, *more, "--tagger", "bundles/my ram")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{file} is written. Next:\n\n  tagstream --env-file '{file}' check\n"
    assert file.stat().st_mode & 0o777 == 0o600
    settings = read(parse_env_file(file.read_text(), "f"))
    assert (settings.kafka_servers, settings.buckets) == (("kafka:9092",), ("photos", "it's"))
    assert (settings.s3_secret_key.get_secret_value(), settings.tagger) == ("s", str(Path.cwd() / "bundles/my ram"))
    assert settings.redis_url.get_secret_value() == "redis://u:p%40@h:6379/0"


def test_relative_paths_mean_the_same_from_every_folder(
    tmp_path: Path, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "secret").write_text("s")
    monkeypatch.chdir(tmp_path / "here")
    more = ("--s3-access-key", "a", "--s3-secret-key-file", "secret", "--tagger", "../ram")
    assert tagstream("init", "my.env", *NEEDED, *more).code == 0
    text = Path("my.env").read_text()
    monkeypatch.chdir(tmp_path)
    settings = read(parse_env_file(text, "f"))
    assert settings.s3_secret_key.get_secret_value() == "s"
    assert Path(settings.tagger).resolve() == tmp_path / "ram"


def test_the_built_in_tagger_is_no_path(file: Path, tagstream: Tagstream) -> None:
    tagstream("init", file, *NEEDED, "--tagger", "compact")
    assert read(parse_env_file(file.read_text(), "f")).tagger == "compact"


def test_settings_without_a_value_stand_there_with_their_default(file: Path) -> None:
    text = written({"TAGSTREAM_BUCKETS": "photos"})
    commented = re.findall(r"^#(TAGSTREAM_.*)$", text, re.MULTILINE)
    assert {line.partition("=")[0] for line in commented} == {variable(field) for field in MATTERING} - {
        "TAGSTREAM_BUCKETS"
    }
    uncommented = parse_env_file("\n".join(commented), "f")
    assert read(uncommented) == read({})
    assert text.count("\n# ----- ") == len(
        {re.sub(r"\W", "", str(FIELDS[field].json_schema_extra)) for field in MATTERING}
    )


def test_what_is_missing_or_wrong_is_told_and_nothing_is_written(file: Path, tagstream: Tagstream) -> None:
    ran = tagstream("init", file, "--kafka-servers", "kafka", "--buckets", "b")
    assert ran.code == 2
    missing, wrong, hint = ran.err.splitlines()
    assert missing.startswith("TAGSTREAM_S3_ENDPOINT is not set. ")
    assert wrong.startswith("TAGSTREAM_KAFKA_SERVERS=kafka: 'kafka' is not host:port. ")
    assert hint == "`tagstream init --help` lists the options; on a terminal it asks."
    assert not file.exists()


@pytest.mark.parametrize("value", ["a\nTAGSTREAM_GROUP=b", "a\0", "\x1b[2J", "\udcff"])
def test_a_value_that_is_no_line_is_refused(value: str, file: Path, tagstream: Tagstream) -> None:
    ran = tagstream("init", file, *NEEDED[:-1], value)
    assert ran.code == 2
    assert ran.err.startswith("TAGSTREAM_BUCKETS holds a line break or another character that is not printable\n")
    assert not file.exists()


def test_a_file_that_is_there_is_written_over_only_by_force(file: Path, tagstream: Tagstream) -> None:
    file.write_text("mine")
    file.chmod(0o644)
    ran = tagstream("init", file, *NEEDED)
    assert (ran.code, ran.err) == (2, f"{file} exists: --force overwrites it\n")
    assert file.read_text() == "mine"
    assert tagstream("init", file, *NEEDED, "--force").code == 0
    assert "TAGSTREAM_KAFKA_SERVERS=kafka:9092" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_place_that_can_not_be_written_is_a_sentence(tmp_path: Path, tagstream: Tagstream) -> None:
    file = tmp_path / "nowhere" / "a.env"
    ran = tagstream("init", file, *NEEDED)
    assert (ran.code, ran.err) == (2, f"{file} can't be written: No such file or directory\n")


class Dialogue:
    """`tagstream init` on a terminal."""

    def __init__(self, *arguments: object) -> None:
        self._terminal, theirs = pty.openpty()
        command = [sys.executable, "-m", "workers", "init", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, close_fds=True
        )
        os.close(theirs)
        self.said = self.seen = ""

    def answer(self, question: str, text: str) -> None:
        """When the question is there, to its last space: what is typed before that may be thrown away."""
        deadline = time.monotonic() + 60
        while question not in self.said:
            assert select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))[0], self.said
            self._read()
        self.said = self.said.partition(question)[2]
        os.write(self._terminal, text.encode())

    def _read(self) -> str:
        part = os.read(self._terminal, 1000).decode()
        self.said += part
        self.seen += part
        return part

    def rest(self) -> str:
        with suppress(OSError):  # how Linux says that the other side has closed it
            while self._read():
                pass
        self.process.wait(60)
        return self.said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)


@pytest.mark.slow
def test_on_a_terminal_it_asks_until_the_answers_are_right(file: Path) -> None:
    with Dialogue(file, "--buckets", "photos") as dialogue:
        dialogue.answer("TAGSTREAM_KAFKA_SERVERS: ", "kafka\n")
        dialogue.answer("is not host:port", "")
        dialogue.answer("TAGSTREAM_KAFKA_SERVERS: ", "kafka:1\n")
        dialogue.answer("TAGSTREAM_S3_ENDPOINT: ", "\n")
        dialogue.answer("TAGSTREAM_S3_ENDPOINT is not set", "")
        dialogue.answer("TAGSTREAM_S3_ENDPOINT: ", "http://minio:9000\n")
        dialogue.answer("TAGSTREAM_S3_ACCESS_KEY: ", "key\n")
        dialogue.answer("TAGSTREAM_S3_SECRET_KEY: ", "hidden\n")
        dialogue.answer("TAGSTREAM_REDIS_URL: ", "\n")
        dialogue.answer("TAGSTREAM_TAGGER [compact]: ", "\n")
        said = dialogue.rest()
    assert dialogue.process.returncode == 0, said
    assert "check" in said
    assert "hidden" not in dialogue.seen
    settings, wrong = examine(parse_env_file(file.read_text(), "f"))
    assert not wrong
    assert (settings.kafka_servers, settings.buckets) == (("kafka:1",), ("photos",))
    assert settings.s3_secret_key.get_secret_value() == "hidden"


@pytest.mark.slow
def test_an_end_at_a_question_writes_nothing(file: Path) -> None:
    with Dialogue(file) as dialogue:
        dialogue.answer("TAGSTREAM_KAFKA_SERVERS: ", "\x04")
        assert "Nothing was written." in dialogue.rest()
    assert dialogue.process.returncode == 130
    assert not file.exists()
