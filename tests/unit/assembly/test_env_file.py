"""`--env-file` reads what a shell would export, and runs no command."""

import os
import re
import subprocess
import threading
from pathlib import Path
from unittest import mock

import pytest

from tests.support.command import Tagstream
from workers.assembly.env_file import LARGEST_BYTES, load_env_file, parse_env_file
from workers.environment import read
from workers.errors import Misconfigured

AS_A_SHELL = r"""
# a comment
A=bare
  export   B='single $HOME "x" \n # no comment'
C="double \"quoted\" \\ \$HOME \x 'y'"	# a comment
D=a'b c'"d"\ e
E=
F=x#y
G=#z
H=a=b
I= # nothing
J=redis://u:p%40@h:6379/0?x=1
K='it'"'"'s'
"""


def test_lines_are_read_as_a_shell_reads_them() -> None:
    found = parse_env_file(AS_A_SHELL, "f")
    script = f"set -a\n{AS_A_SHELL}\nenv -0"
    told = subprocess.run(["sh", "-c", script], env={"PATH": os.environ["PATH"]}, capture_output=True, check=True)
    shell = dict(line.split("=", 1) for line in told.stdout.decode().split("\0") if line)
    assert found.keys() == set("ABCDEFGHIJK")
    assert {name: shell[name] for name in found} == found


def test_nothing_is_expanded_or_run() -> None:
    text = 'A=$HOME\nB="$(id)"\nC=`id`\nD=~/x\r\n'
    assert parse_env_file(text, "f") == {"A": "$HOME", "B": "$(id)", "C": "`id`", "D": "~/x"}


def test_the_later_line_counts() -> None:
    assert parse_env_file("A=1\nA=2", "f") == {"A": "2"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("A", "not NAME=value"),
        ("1A=x", "not NAME=value"),
        ("A =x", "not NAME=value"),
        ("A.B=x", "not NAME=value"),
        (f"{'A' * 101}=x", "not NAME=value"),
        ("A=x y", "quote a value with spaces, and close the quote on the same line"),
        ("A='x", "quote a value with spaces, and close the quote on the same line"),
        ('A="x\\"', "quote a value with spaces, and close the quote on the same line"),
        ("A=x\0y", "A has a NUL character"),
        ("TAGSTREAM_BUCKET=x", "TAGSTREAM_BUCKET is not a setting. Do you mean TAGSTREAM_BUCKETS?"),
    ],
)
def test_an_error_is_reported_with_its_line(line: str, says: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        parse_env_file(f"A=1\n\n{line}\n", "my.env")
    assert str(refused.value) == f"my.env:3: {says}"


def test_all_errors_are_reported_together_up_to_a_limit() -> None:
    with pytest.raises(Misconfigured) as refused:
        parse_env_file("x\n" * 100_000, "f")
    assert len(str(refused.value).splitlines()) == 20


def test_settings_come_from_the_file_and_the_environment_goes_before_it(tmp_path: Path) -> None:
    """Also where one of the two names a secret's file; an empty value is not set."""
    file = tmp_path / "a.env"
    file.write_text(
        "TAGSTREAM_GROUP=theirs\nexport TAGSTREAM_BUCKETS='a,b'\nTAGSTREAM_OUTPUT_TOPIC=out\n"
        "TAGSTREAM_KAFKA_PASSWORD_FILE=/theirs\nTAGSTREAM_CACHE_KEY=theirs"
    )
    own = {"GROUP": "ours", "OUTPUT_TOPIC": "", "KAFKA_PASSWORD": "ours", "CACHE_KEY_FILE": str(tmp_path / "ours")}
    (tmp_path / "ours").write_text("k" * 40)
    with mock.patch.dict(os.environ, {f"TAGSTREAM_{name}": value for name, value in own.items()}):
        load_env_file(file)
        settings = read(os.environ)
    assert (settings.group, settings.buckets, settings.output_topic) == ("ours", ("a", "b"), "out")
    assert settings.kafka_password.get_secret_value() == "ours"
    assert settings.cache_key.get_secret_value() == "k" * 40


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "can't be read: No such file or directory"),
        (b"A=\xff", "is not text in UTF-8"),
        (b"#" * (LARGEST_BYTES + 1), "has more than 1,048,576 bytes"),
    ],
)
def test_a_file_that_can_not_be_taken_ends_with_2_and_a_sentence(
    content: bytes | None, says: str, tagstream: Tagstream, tmp_path: Path
) -> None:
    file = tmp_path / "a.env"
    if content is not None:
        file.write_bytes(content)
    ran = tagstream("--env-file", file, "check")
    assert (ran.code, ran.err) == (2, f"--env-file {file} {says}\n")


def test_the_home_of_an_unknown_user_is_no_such_file(tagstream: Tagstream) -> None:
    ran = tagstream("--env-file", "~nosuchuser/a.env", "check")
    assert (ran.code, ran.err) == (2, "--env-file ~nosuchuser/a.env can't be read: No such file or directory\n")


def test_a_pipe_is_a_file_too(tagstream: Tagstream, tmp_path: Path) -> None:
    """`--env-file <(decrypt settings.env)`"""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_text, args=["TAGSTREAM_GRUP=x"], daemon=True).start()
    assert tagstream("--env-file", pipe, "check").err == (
        f"{pipe}:1: TAGSTREAM_GRUP is not a setting. Do you mean TAGSTREAM_GROUP?\n"
    )


def test_the_template_is_a_valid_file_and_its_check_names_the_missing_settings(
    tagstream: Tagstream, tmp_path: Path
) -> None:
    file = tmp_path / "tagstream.env"
    file.write_text(tagstream("settings", "--template").out)
    missing = re.findall(r"^(TAGSTREAM_\w+) is not set\. ", tagstream("--env-file", file, "run").fails(), re.MULTILINE)
    assert missing == ["TAGSTREAM_KAFKA_SERVERS", "TAGSTREAM_S3_ENDPOINT", "TAGSTREAM_BUCKETS"]
    assert re.findall(r"^(TAGSTREAM_\w+)=", file.read_text(), re.MULTILINE) == missing


def test_the_templates_comments_are_the_defaults_of_settings_by_group(tagstream: Tagstream) -> None:
    text = tagstream("settings", "--template").out
    commented = re.findall(r"^#(TAGSTREAM_.*)$", text, re.MULTILINE)
    assert len(commented) > 20
    assert read(parse_env_file("\n".join(commented), "f")) == read({})
    groups = re.findall(r"^# ----- (.*) -----$", text, re.MULTILINE)
    assert sorted(set(groups)) == sorted(groups)
