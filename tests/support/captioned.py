"""A site whose workers ask a service for captions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from remote.tests.stub import StubService
from schemas.enriched_image import EnrichedImage
from tests.support.broker import publish
from tests.support.forked import run_command
from tests.support.worker_process import Site
from workers.types import Message

KEY = "MARKED-key-of-the-service"
FIELDS = {"indoors": {"type": "enum", "values": ["yes", "no"]}, "people": {"type": "number"}}


def settings_of(
    service: StubService, folder: Path, *, wait_s: float = 10, tokens: int = 0, **file: Any
) -> dict[str, str]:
    """A worker's settings."""
    path, key = folder / "captions.json", folder / "key"
    path.write_text(json.dumps({"side": 64, **file}))
    key.write_text(KEY)
    return {
        "TAGSTREAM_CAPTIONER": service.address,
        "TAGSTREAM_CAPTION_MODEL": service.model,
        "TAGSTREAM_CAPTION_KEY_FILE": str(key),
        "TAGSTREAM_CAPTION_FILE": str(path),
        "TAGSTREAM_CAPTION_WAIT_S": str(wait_s),
        "TAGSTREAM_CAPTION_TOKENS_PER_DAY": str(tokens),
    }


def send(
    site: Site, keys: Sequence[str], partition: int | None = None, want: Sequence[str] = ("tags", "caption")
) -> None:
    """One event for each key, in one partition or spread over all."""
    events = [site.own(key, options={"want": list(want)}) for key in keys]
    places = [number % site.partitions if partition is None else partition for number in range(len(keys))]
    messages = (Message(site.images, None, each, (), place) for each, place in zip(events, places, strict=True))
    publish(site.stack.kafka.servers, messages)


def newest(site: Site) -> dict[str, EnrichedImage]:
    """By key, as readers by `version` see them."""
    return {each.source.key: each for each in sorted(site.enriched_images(), key=lambda each: each.version or 0)}


def pictures(service: StubService) -> Counter[bytes]:
    """How often the service was asked about each picture, in the order of the first time."""
    return Counter(asked.jpeg for asked in [*service.asked] if asked.jpeg is not None)


def missing(image: EnrichedImage) -> list[tuple[str | None, str]]:
    return [(each.want, each.reason) for each in image.missing or ()]


def command(site: Site, settings: Mapping[str, str], folder: Path, *words: object) -> dict[str, Any]:
    """The report of a command with these settings."""
    own = {"TAGSTREAM_STATE_DIR": str(folder / "state"), **site.settings("command"), **settings}
    report: dict[str, Any] = run_command(*words, "--json", **own).json
    return report


def request_again(site: Site, settings: Mapping[str, str], folder: Path, reason: str) -> int:
    """Retag: ask for the images whose outcomes miss a result for this reason; returns how many."""
    plan = folder / f"plan-{reason}"
    planned = command(site, settings, folder, "retag", "plan", "--reason", reason, "-o", plan)
    done = command(site, settings, folder, "retag", "go", plan)
    assert done["images"] == planned["need_image"], done
    return int(planned["need_image"])
