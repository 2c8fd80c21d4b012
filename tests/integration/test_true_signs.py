"""What a worker shows of itself is so: its readiness, and a log in which every line is JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import Stack
from tests.support.images import tiff_that_its_codec_complains_of
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo, worker

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def site(stack: Stack, unique: Callable[[str], str]) -> Site:
    return Site(stack, unique("signs"))


def log_of(process: WorkerProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.said().splitlines()]


def test_a_worker_whose_topic_is_missing_is_never_ready_and_says_so_in_its_last_line(
    site: Site, tmp_path: Path
) -> None:
    process = WorkerProcess(site, "w", tmp_path, TAGSTREAM_INPUT_TOPICS=f"{site.name}.nowhere")
    try:
        assert process.wait_gone(120) == 2
    finally:
        process.kill()
    lines = log_of(process)
    assert not [line for line in lines if line["message"].startswith("ready")]
    assert lines[-1]["level"] == "error"
    assert lines[-1]["message"].startswith(f"the topic '{site.name}.nowhere' does not exist; create it first")


def test_what_codecs_write_in_our_own_process_is_a_line_of_the_log(site: Site, tmp_path: Path) -> None:
    site.upload("good.jpg", photo(1))
    site.upload("lzw.tiff", tiff_that_its_codec_complains_of("tiff_lzw"))
    site.send([(site.own("good.jpg"), ()), (site.own("lzw.tiff"), ())])
    with worker(site, "w", tmp_path, TAGSTREAM_DECODER="threads") as process:
        eventually(lambda: site.behind() == 0, 60, process.said)
        eventually(lambda: process.metric("tagstream_stderr_lines_total", of="worker") >= 1, 30, process.said)
        assert process.terminate() == 0, process.said()
    said = [line["message"] for line in log_of(process)]
    assert any(message.endswith("Using code not yet in table.") for message in said)
    assert "ready: joined the group" in said
