"""Outcomes as their readers have them."""

import re
from pathlib import Path
from typing import Any, TypeAlias

import schemas
from schemas.dead_letter import Failure
from schemas.enriched_image import EnrichedImage, Retraction, Skip, read_output
from workers.types import Outcome

Told: TypeAlias = EnrichedImage | Retraction | Skip | Failure


def read(outcome: Outcome) -> Told:
    return outcome if isinstance(outcome, Failure) else read_output(outcome.value)


def image_of(outcome: Outcome) -> EnrichedImage:
    told = read(outcome)
    assert isinstance(told, EnrichedImage), told
    return told


PACKAGE = Path(schemas.__file__).parent


def readme_reader() -> dict[str, Any]:
    (code,) = re.findall(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("from tagstream_schemas.", "from schemas."), names)  # as the package is called in this checkout
    return names
