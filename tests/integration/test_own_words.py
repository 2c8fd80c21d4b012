"""Own words on real servers: label file, calibration by images in the store, worker, new labels without images."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tagstream_testing.local.postgresql import PostgreSQL
from tests.support.captioned import newest
from tests.support.command import Tagstream
from tests.support.images import encoded
from tests.support.slowed import WITHOUT_TORCH
from tests.support.worker_process import Site, worker
from tests.unit.models.small_dual import small_dual
from workers.models.bundle import Bundle

pytestmark = pytest.mark.timeout(240)

LABELS = """
[[label]]
name = "dark"
descriptions = ["a dark room", "night"]
share = 0.5
parents = ["light"]
translations = {de = "dunkel"}
"""
EXAMPLES, PICTURES = 120, 6


def picture(number: int) -> bytes:
    """Noise; even numbers are dark."""
    low = 0 if number % 2 == 0 else 160
    pixels = np.random.default_rng(number).integers(low, low + 90, (24, 24, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels).resize((96, 96)), "png")


def retag(site: Site, folder: Path, *words: object, **more: str) -> dict[str, Any]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TAGSTREAM_", "OTEL_"))}
    environment = kept | site.settings("retag") | {"TAGSTREAM_STATE_DIR": str(folder / "state")} | more
    command = [sys.executable, *WITHOUT_TORCH, "retag", *map(str, words), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_labels_are_calibrated_used_and_changed_without_the_images(
    site: Site, postgresql: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tagstream: Tagstream
) -> None:
    for name, value in site.settings("command").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TAGSTREAM_STATE_DIR", str(tmp_path / "state"))
    base, file, told = small_dual("siglip", tmp_path / "siglip").folder, tmp_path / "labels.toml", tmp_path / "told.csv"

    def made(name: str) -> tuple[Bundle, dict[str, Any]]:
        """A bundle, and the report of its calibration."""
        file.write_text(LABELS.replace('"dark"', f'"{name}"'))
        rows = [
            f"{place},{name},{1 - number % 2}"
            for number in range(EXAMPLES // 2)
            for place in (f"s3://{site.name}/told/{number}.png", f"{number}.png")
        ]
        told.write_text("\n".join(rows))
        assert tagstream("models", "labels", base, file, "-o", tmp_path / f"raw-{name}").code == 0
        words = ("models", "calibrate", tmp_path / f"raw-{name}", told, "-o", tmp_path / name, "--json")
        report = next(json.loads(line) for line in tagstream(*words).done.splitlines() if line.startswith("{"))
        return Bundle.open(tmp_path / name), report

    for number in range(EXAMPLES // 2):
        site.upload(f"told/{number}.png", picture(1000 + number))
        (tmp_path / f"{number}.png").write_bytes(picture(2000 + number))
    (dark, report), (gloomy, _) = made("dark"), made("gloomy")
    assert (report["shown"], report["not_shown"], report["kept"]) == (60, 60, None)
    assert min(report["precision"], report["recall"]) > 0.9

    for number in range(PICTURES):
        site.upload(f"{number}.png", picture(number))
    site.send([(site.own(f"{number}.png", options={"want": ["tags"]}), ()) for number in range(PICTURES)])
    with worker(site, "w", tmp_path, TAGSTREAM_TAGGER=str(dark.folder)) as process:
        process.finish()
    shown = {
        key: [(tag.name, tag.parents, tag.translations) for tag in each.tags] for key, each in newest(site).items()
    }
    tags = [("dark", ("light",), {"de": "dunkel"})]
    assert shown == {f"{number}.png": tags if number % 2 == 0 else [] for number in range(PICTURES)}

    settings, plan = {"TAGSTREAM_TAGGER": str(gloomy.folder), "TAGSTREAM_WANT": "tags"}, tmp_path / "plan"
    planned = retag(site, tmp_path, "plan", "-o", plan, **settings)
    assert (planned["rescored"], planned["need_image"]) == (PICTURES, 0)
    retag(site, tmp_path, "go", plan, **settings)
    events = newest(site)
    assert {key: [tag.name for tag in event.tags] for key, event in events.items()} == {
        f"{number}.png": ["gloomy"] if number % 2 == 0 else [] for number in range(PICTURES)
    }
    assert {each.models.tagger and each.models.tagger.digest for each in events.values()} == {gloomy.digest}

    monkeypatch.setenv("TAGSTREAM_INDEX_DSN", postgresql.dsn)
    monkeypatch.setenv("TAGSTREAM_INDEX_SCHEMA", site.name.replace("-", "_"))
    run = [sys.executable, "-m", "workers", "index", "run", "--until-idle", "1"]
    assert tagstream("index", "init").code == 0
    subprocess.run(run, timeout=120, check=True, env={**os.environ, "TAGSTREAM_INDEX_HTTP_PORT": "0"})

    def found(*words: str) -> set[str]:
        return {json.loads(line)["key"] for line in tagstream("search", *words, "--json").done.splitlines()}

    gloomy_ones = {f"{number}.png" for number in range(0, PICTURES, 2)}
    sentence = ("--about", "a dark room", "--text", str(base), "--within", "2")
    assert found("gloomy") == found("light") == gloomy_ones
    assert found(*sentence) == set(events)
    assert found(*sentence, "--tag", "gloomy") == gloomy_ones
