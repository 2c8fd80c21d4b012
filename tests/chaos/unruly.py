"""The test's side of a model that misbehaves on command: installs it, gives it orders, reads its diary."""

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from tests.chaos import unruly_model
from workers.models.bundle import Bundle
from workers.models.manifest import Manifest, Provenance
from workers.types import Transform

_KIND = "unruly"
_ROOT = Path(__file__).parents[2]


class Unruly:
    """A folder that is to Python as if the model's package were installed in it, and a bundle of its kind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        shutil.copy(unruly_model.__file__, folder / "unruly_model.py")
        facts = folder / "unruly_model-1.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: unruly-model\nVersion: 1\n")
        (facts / "entry_points.txt").write_text(f"[tagstream.models]\n{_KIND} = unruly_model\n")
        self._make_bundle(folder / "bundle")
        self.order()

    def settings(self, *, captions: bool = False) -> dict[str, str]:
        bundle = str(self._folder / "bundle")
        return {
            "PYTHONPATH": os.pathsep.join([str(self._folder), str(_ROOT)]),
            "TAGSTREAM_TAGGER": bundle,
            "TAGSTREAM_CAPTIONER": bundle if captions else "none",
            "TAGSTREAM_REDIS_URL": "",
        }

    def order(self, *, captioner: dict[str, Any] | None = None, **tagger: Any) -> None:
        """From the next batch on; whatever was ordered before is forgotten. See `unruly_model._Model.obey`."""
        fresh = self._folder / "orders.new"
        fresh.write_text(json.dumps({"tagger": tagger, "captioner": captioner or {}}))
        fresh.replace(self._folder / "orders.json")

    def diary(self, what: str, role: str = "tagger") -> list[dict[str, Any]]:
        """The entries of one kind, in order: `images` in the batch, and `at` which monotonic second."""
        path = self._folder / "diary.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [entry for entry in entries if (entry["role"], entry["what"]) == (role, what)]

    def _make_bundle(self, folder: Path) -> None:
        import torch  # takes seconds, and only makers of bundles need it

        manifest = Manifest(
            kind=_KIND,
            name="unruly",
            provenance=Provenance(source="made for a test"),
            transform=Transform(unruly_model.SIDE),
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        )
        Bundle.write(folder, manifest, weights={"none": torch.zeros(1)}, labels=unruly_model.LABELS)


def image_of(colour: tuple[int, int, int], seed: int = 0) -> bytes:
    """A PNG of one colour; another seed gives other bytes and another size, and the same pixels for a model."""
    out = io.BytesIO()
    Image.new("RGB", (32 + seed, 32), colour).save(out, "PNG")
    return out.getvalue()
