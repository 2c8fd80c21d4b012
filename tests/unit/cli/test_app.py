"""All commands under one name: quick, teaching, and ending with the right code."""

import ast
import errno
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from tests.support import logs
from tests.support.command import Tagstream
from tests.support.kinds import Brightness, BrightnessKind, given_kinds
from tests.unit.models.tiny import tiny_bundle
from workers import __version__, errors
from workers.cli import app
from workers.cli.terminal import WITHOUT_GO
from workers.errors import Broken, Misconfigured, TagstreamError, Unavailable
from workers.service.logs import start_logging

ACTS = {
    *(
        "run",
        "demo",
        "stack up",
        "stack down",
        "correct",
        "dead-letters replay",
        "dead-letters skip",
        "index init",
        "index run",
        "index serve",
    ),
    *(f"models {word}" for word in ("import", "pull", "labels", "random", "embed")),
    *(f"train {word}" for word in ("clean", "collect", "parse", "split")),
}

HEAVY = ("torch", "timm", "kafka", "minio", "redis", "PIL", "numpy", "opentelemetry.sdk", "asyncio", "pydantic_core")


@pytest.mark.slow
def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from workers.cli.app import run_command\n"
        "assert run_command(['--help']) == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"


def commands(group: Any, *names: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *names, name)
        else:
            yield " ".join((*names, name)), command


def test_every_command_that_lists_gives_json_too() -> None:
    """A new command has --json, or is named in ACTS because its output is not its purpose."""
    found = dict(commands(app.command_tree()))
    json_help = {name: each.help for name, command in found.items() for each in command.params if "--json" in each.opts}
    not_installed = {name for name in app.ELSEWHERE if app._command(name) is None}
    assert found.keys() - json_help.keys() - not_installed == ACTS
    assert [name for name, told in json_help.items() if "JSON" not in told] == []


def test_trying_first_has_one_pair_of_words() -> None:
    """What destroys or publishes tries by default and takes --go; what sends new events takes --dry-run."""
    helps = {
        (name, option): each.help
        for name, command in commands(app.command_tree())
        for each in command.params
        for option in each.opts
    }
    go = {name: told for (name, option), told in helps.items() if option == "--go"}
    assert go.keys() == {"forget", "dead-letters skip", "dead-letters replay", "index rebuild", "index review"}
    assert all(told.endswith(WITHOUT_GO) for told in go.values())
    dry = {name: told for (name, option), told in helps.items() if option == "--dry-run"}
    assert dry.keys() == {"emit", "correct", "retag go"}
    assert len(set(dry.values())) == 1
    assert not {option for _, option in helps} & {"--try", "--yes", "--preview", "--execute"}
    page = (Path(__file__).parents[3] / "docs/guide/operating.md").read_text(encoding="utf-8")
    for option, names in (("--go", go), ("--dry-run", dry)):
        (row,) = re.findall(rf"^\| `{option}` \|.*\| (.*) \|$", page, re.MULTILINE)
        assert set(re.findall(r"`([^`]+)`", row)) == names.keys()


WRITERS = {"KafkaEmitter", "KafkaPublisher", "ensure_topics"}
"""Each writes to Kafka, and so does whatever uses it."""


def used(module: str, name: str, seen: set[tuple[str, str]]) -> set[str]:
    if (module, name) in seen or not module.startswith(("workers.cli.", "workers.assembly.")):
        return {name}
    seen.add((module, name))
    path = Path(__file__).parents[3] / f"{module.replace('.', '/')}.py"
    tree = ast.parse(path.read_text("utf-8"))
    (defined,) = [getattr(node, "body", []) for node in tree.body if getattr(node, "name", None) == name] or [[]]
    here = {getattr(node, "name", ""): module for node in tree.body}
    nodes = [node for statement in defined for node in ast.walk(statement)]
    imported = [node for node in (*tree.body, *nodes) if isinstance(node, ast.ImportFrom)]
    here |= {each.name: node.module or "" for node in imported for each in node.names}
    names = {node.id for node in nodes if isinstance(node, ast.Name)} & here.keys()
    return {name, *(found for each in names for found in used(here[each], each, seen))}


@pytest.mark.slow
def test_commands_that_operating_md_calls_read_only_reach_no_writer() -> None:
    ours = {
        name: each.callback for name, each in commands(app.command_tree()) if each.callback.__module__ in sys.modules
    }
    ours = {name: each for name, each in ours.items() if each.__module__.startswith("workers.cli")}
    writes = {name for name, each in ours.items() if used(each.__module__, each.__name__, set()) & WRITERS}
    page = (Path(__file__).parents[3] / "docs/guide/operating.md").read_text(encoding="utf-8")
    shown = {name for name in ours for line in page.splitlines() if re.match(rf"tagstream {name}(?!\S)", line)}
    assert {"status", "audit", "topics create", "topics check"} <= shown
    assert shown & writes == set(re.findall(r"change nothing, except `([^`]+)`", page))
    (tried,) = [
        set(re.findall(r"`([^`]+)`", row)) for row in re.findall(r"^\| `--go` \|.*\| (.*) \|$", page, re.MULTILINE)
    ]
    assert writes == (tried & ours.keys()) | {"topics create", "run", "emit", "correct", "retag go"}


def test_no_help_of_an_option_is_taken_for_markup() -> None:
    """Such as `[default: …]`, which is then not shown at all."""
    helps = {
        f"{name} {option.name}": option.help or ""
        for name, command in commands(app.command_tree())
        for option in command.params
        if hasattr(option, "help")
    }
    assert len(helps) > 200
    assert [name for name, told in helps.items() if Text.from_markup(told).plain != told] == []


def test_the_whole_help_names_the_exit_codes(tagstream: Tagstream) -> None:
    ran = tagstream("--help")
    assert "Exit codes: 0 done" in ran.out
    assert [name for name in app.COMMANDS if name not in ran.out] == []


def test_the_version_can_be_asked(tagstream: Tagstream) -> None:
    assert tagstream("--version").out == f"tagstream {__version__}\n"


@pytest.mark.parametrize("command", [(), ("tail",), ("stack", "up")], ids=str)
def test_help_has_a_short_form_everywhere(command: tuple[str, ...], tagstream: Tagstream) -> None:
    assert tagstream(*command, "-h") == tagstream(*command, "--help")


def test_a_shell_completes_commands(tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TAGSTREAM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "tagstream dead-letters re")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert tagstream().out.split() == ["replay"]


@pytest.mark.parametrize(("option", "level"), [("-v", "debug"), ("--verbose", "debug"), ("-q", "warning")])
def test_how_much_is_logged_is_said_in_one_letter(
    option: str, level: str, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(_: object, environ: dict[str, str], *__: str) -> None:
        raise Misconfigured(environ["TAGSTREAM_LOG_LEVEL"])

    monkeypatch.setattr("workers.environment.examine", tell)
    monkeypatch.setattr("workers.service.logs.start_logging", lambda *_, **__: None)
    assert tagstream(option, "tail", LOG_LEVEL="error").err == f"{level}\n"


def test_quiet_and_verbose_is_neither(tagstream: Tagstream) -> None:
    assert tagstream("-q", "-v", "check").code == 2
    assert tagstream("-qv", "check").err == "-q and -v are opposites: keep one\n"


def test_a_command_that_does_not_log_by_itself_does_so_when_asked(
    tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It masks secrets, and starts before it knows whether the settings are right."""

    def look(*_: object) -> None:
        logging.getLogger("workers.test").debug("a login with hunter2 was made")

    monkeypatch.setattr("workers.assembly.needs._tls_files", lambda *_: [look])
    with logs.restored():
        ran = tagstream("-v", "tail", KAFKA_PASSWORD="hunter2")
        assert "debug   test: a login with *** was made\n" in ran.err
        said = tagstream("-v", "tail", KAFKA_PASSWORD="hunter2", GROUPS="x").err
        assert said.startswith("TAGSTREAM_GROUPS is not a setting")


@pytest.mark.parametrize("command", ["run", "check", "tail", "emit"])
def test_an_unknown_setting_ends_every_command_with_2_and_a_sentence(command: str, tagstream: Tagstream) -> None:
    sentence = "TAGSTREAM_KAFKA_SERVER is not a setting. Do you mean TAGSTREAM_KAFKA_SERVERS?\n"
    assert tagstream(command, KAFKA_SERVER="a:1").fails() == sentence


def test_all_errors_are_reported_before_the_worker_starts(tagstream: Tagstream, tmp_path: Path) -> None:
    files = ("KAFKA_TLS_CA", "LABELS_FILE", "PROFILES")
    given = {name: tmp_path / name for name in (*files, "TAGGER")}
    said = tagstream("run", KAFKA_SECURITY_PROTOCOL="SSL", **given).fails().splitlines()
    missing, unreadable, bundles = said[:3], said[3:6], said[6:]
    required = ("KAFKA_SERVERS", "S3_ENDPOINT", "BUCKETS")
    assert [line.split()[0] for line in missing] == [f"TAGSTREAM_{name}" for name in required]
    assert unreadable == [
        f"TAGSTREAM_{name}={tmp_path / name} can't be read: No such file or directory" for name in files
    ]
    assert "is not a bundle" in bundles[0]


def test_contradictions_the_state_folder_pins_and_profiles_are_reported_before_the_worker_starts(
    tagstream: Tagstream, tmp_path: Path
) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    (tmp_path / "file").write_text("")
    (tmp_path / "profiles.json").write_text('{"strict": {"labels": {"unicorn": 0.5}}}')
    settings = {
        "KAFKA_SERVERS": "127.0.0.1:1",
        "S3_ENDPOINT": "http://127.0.0.1:1",
        "S3_ACCESS_KEY": "a",
        "STATE_DIR": str(tmp_path / "file"),
        "TAGGER": f"{bundle.folder}@sha256:{'0' * 64}",
        "PROFILES": str(tmp_path / "profiles.json"),
    }
    missing, contradiction, state, profile, pin = tagstream("run", **settings).fails().splitlines()
    assert missing.startswith("TAGSTREAM_BUCKETS is not set")
    assert "TAGSTREAM_S3_SECRET_KEY go together" in contradiction
    assert state.startswith("TAGSTREAM_STATE_DIR: ")
    assert "has no tag 'unicorn'" in profile
    assert f"{bundle.digest}, and TAGSTREAM_TAGGER wants {'0' * 64}" in pin


@pytest.mark.parametrize(
    "command", [("tail",), ("dead-letters", "list"), ("correct", "photos/a.jpg", "--add", "dog"), ("emit",)]
)
def test_every_command_reports_a_missing_tls_file(
    command: tuple[str, ...], tagstream: Tagstream, tmp_path: Path
) -> None:
    servers = {"KAFKA_SERVERS": "127.0.0.1:1", "S3_ENDPOINT": "http://127.0.0.1:1"}
    said = tagstream(*command, KAFKA_SECURITY_PROTOCOL="SSL", KAFKA_TLS_CA=tmp_path / "ca.pem", **servers).fails()
    assert said == f"TAGSTREAM_KAFKA_TLS_CA={tmp_path / 'ca.pem'} can't be read: No such file or directory\n"


def test_advice_is_printed_with_the_error(tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise Unavailable("s3", "403 AccessDenied", fault="access", advice="allow s3:GetObject")

    monkeypatch.setattr("workers.environment.examine", refuse)
    assert tagstream("emit").fails() == "s3: 403 AccessDenied\nallow s3:GetObject\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Misconfigured("m"), 2),
        (Broken("b"), 3),
        (Unavailable("kafka", "u"), 4),
        (TagstreamError("other"), 4),
        (OSError(errno.EROFS, "Read-only file system", "/data/set"), 2),
        (PermissionError(errno.EACCES, "Permission denied", b"/data/\xff"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "/data/set"), 2),
        (KeyboardInterrupt(), 130),
    ],
    ids=repr,
)
def test_errors_end_with_the_exit_code_of_their_cause(
    error: BaseException, code: int, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("workers.environment.examine", fail)
    assert "Traceback" not in tagstream("tail").fails(code)


def test_a_file_that_this_user_may_not_have_is_named(
    tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, app.logger.name)

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/data/set")

    monkeypatch.setattr("workers.environment.examine", fail)
    assert tagstream("tail").err == "/data/set can't be used: Read-only file system\n"
    assert "in fail" in caplog.text, "debug lines say where"


def test_our_own_error_is_logged_with_where_it_happened_and_ends_with_1(
    tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("workers.environment.examine", lambda *_: 1 / 0)
    assert tagstream("tail").code == errors.OUR_BUG
    assert "a bug of ours" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_settings_and_the_findings_of_a_check_are_available_as_json(tagstream: Tagstream) -> None:
    listed = [json.loads(line) for line in tagstream("settings", "--json").out.splitlines()]
    [group] = [each for each in listed if each["variable"] == "TAGSTREAM_GROUP"]
    assert (group["group"], group["default"], group["secret"]) == ("Kafka", "tagstream", False)

    ran = tagstream("check", "--json", S3_ACCESS_KEY="who", S3_SECRET_KEY="do-not-show", PRECISION="fp32")
    assert ran.code == 2
    told = json.loads(ran.out)
    assert told["settings"]["TAGSTREAM_PRECISION"] == "fp32"
    assert told["settings"]["TAGSTREAM_S3_SECRET_KEY"] == "***"
    says = {each["about"]: each["says"] for each in told["findings"] if not each["ok"]}
    assert says["Kafka"].startswith("TAGSTREAM_KAFKA_SERVERS is not set.")
    assert says["Buckets"].startswith("TAGSTREAM_BUCKETS is not set.")
    assert says["Object store"].startswith("TAGSTREAM_S3_ENDPOINT is not set.")


def test_schemas_are_written(tagstream: Tagstream, tmp_path: Path) -> None:
    with given_kinds(BrightnessKind):
        assert tagstream("schemas", "export", tmp_path / "new" / "folder").code == 0
        published = Path(app.__file__).parents[2] / "schemas" / "published"
        again = tagstream("schemas", "export", tmp_path / "new" / "folder", "--json").out
    names = {path.name for path in published.glob("*.json")}
    assert {Path(file).name for file in json.loads(again)["files"]} == {*names, "result-brightness.json"}
    added = json.loads((tmp_path / "new" / "folder" / "result-brightness.json").read_text())
    assert added["properties"].keys() == Brightness.model_fields.keys()
    for path in published.glob("*.json"):
        assert (tmp_path / "new" / "folder" / path.name).read_bytes() == path.read_bytes()


def test_an_unwritable_folder_is_reported(tagstream: Tagstream, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "can't be written" in tagstream("schemas", "export", tmp_path / "file" / "below").fails()


@pytest.mark.parametrize("option", [("--env-file", "f"), ("-v",), ("--quiet",)])
def test_a_misplaced_option_is_answered_with_its_place(option: tuple[str, ...], tagstream: Tagstream) -> None:
    said = re.sub(r"[│\s]+", " ", tagstream("check", *option).fails())
    assert f"tagstream {option[0]} … check" in said


def test_an_unknown_option_is_answered_without_a_place(tagstream: Tagstream) -> None:
    said = tagstream("check", "--colour").fails()
    assert "No such option: --colour" in said
    assert "--colour …" not in said


@pytest.mark.slow
def test_a_full_disk_is_a_sentence() -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "workers", "settings", "--json"]
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert ran.returncode == errors.MISCONFIGURED
    assert ran.stderr.decode() == "what the command writes has no place: No space left on device\n"


def test_characters_that_the_output_does_not_have_are_escaped() -> None:
    command = [sys.executable, "-m", "workers", "settings"]
    ran = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert rb"host:port,\u2026" in ran.stdout


def test_a_process_ends_once_all_is_said_and_takes_nothing_apart() -> None:
    """Guard: to take torch's modules apart takes a fifth of a worker's start and end."""
    code = """
import atexit
from workers import __main__ as entry
from workers.cli import app

class Kept:
    def __del__(self):
        print("taken apart")

def command(arguments):
    atexit.register(print, "at the end")
    print("said")
    return 7

kept, app.run_command = Kept(), command
entry.main()
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, "said\nat the end\n", "")


@pytest.mark.slow
def test_json_stays_json_where_the_output_lacks_its_characters() -> None:
    """Python escapes these as `\\xfc` and `\\U0001f431`, which JSON does not know."""
    code = (
        "from workers.__main__ import escape_unknown_characters; from workers.cli.terminal import as_json\n"
        "escape_unknown_characters(); print(as_json({'key': '\\xfc \\U0001f431 \\u2026'}))"
    )
    for encoding in ("ascii", "latin-1", "utf-8"):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=60)
        assert json.loads(ran.stdout.decode(encoding)) == {"key": "\xfc \U0001f431 \u2026"}


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_standard_stream_that_is_closed_takes_everything(closed: str) -> None:
    """Its number goes to no other file."""
    code = (
        "import os, sys; from workers import __main__ as entry; entry.open_closed_streams()\n"
        "print('told', flush=True); print('told', file=sys.stderr)\n"
        "sys.exit(os.open(os.devnull, os.O_RDONLY) < 3)"
    )
    ran = subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code], timeout=60)
    assert ran.returncode == 0


def test_what_ends_a_command_is_the_last_line_of_its_log_whatever_was_left_out_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ends() -> None:
        for _ in range(2):
            logging.getLogger("kafka.cluster").error("no such topic")
        raise Misconfigured("the topic 'nowhere' does not exist")

    out = io.StringIO()
    with logs.restored():
        start_logging("info", "json", stream=out)
        monkeypatch.setattr(app, "command_tree", lambda _: lambda *_, **__: ends())
        assert app.run_command([]) == errors.MISCONFIGURED
        for handler in logging.getLogger().handlers:
            handler.close()  # as at the end of the process
    messages = [json.loads(line)["message"] for line in out.getvalue().splitlines()]
    assert len(messages) == 3
    assert messages[-1] == "the topic 'nowhere' does not exist"
