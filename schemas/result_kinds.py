"""Kinds of results that other packages add, as text in pictures.

A package adds a kind by an entry point of the group `tagstream.roles`: its name is the kind's name, its value a
subclass of `ResultKind`. A kind is *light*: the index, the search page and `tagstream schemas export` import it, so its
module imports no torch. `build` alone imports the model. The package is the operator's own code, and trusted.
"""

from __future__ import annotations

import importlib.metadata
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Final, TypeAlias

from pydantic import BaseModel, Field

GROUP: Final = "tagstream.roles"

NAME_PATTERN: Final = "^[a-z-]{1,32}$"
RoleName: TypeAlias = Annotated[str, Field(pattern=NAME_PATTERN)]
"""The name of a result: `tags`, `caption`, `embedding`, or that of an added kind."""


def is_role_name(text: str) -> bool:
    return re.fullmatch("[a-z-]{1,32}", text) is not None


RESERVED: Final = frozenset(
    [
        *("tags", "caption", "embedding", "tagger", "captioner", "facts", "source"),
        *("tag", "score", "bucket", "key", "since", "before", "taken", "is", "model"),  # filters of searches
    ]
)
"""Names that no added kind may have. A later filter of searches goes before a kind of its name."""


class ResultKind(ABC):
    """A kind of result, without its model."""

    name: ClassVar[str]
    """`[a-z-]{1,32}`: in an event's `want`, in TAGSTREAM_ROLES, in the outcome's `results`, in searches `NAME:word`."""
    result: ClassVar[type[BaseModel]]
    """The result as outcomes publish it: a JSON object."""
    bundle_kind: ClassVar[str]
    """The `kind` of the bundles that `build` takes; empty: no bundle makes it, and `build` says what does."""
    template: ClassVar[str] = ""
    """A part of a Jinja template in SVG, drawn over the picture on its page. It gets `result` as JSON values. Lengths
    are pixels of the stored file; the page turns them as the image's orientation says. Empty: nothing is drawn."""

    def words(self, result: dict[str, Any]) -> str:
        """The text by which searches find the image, a line each; by default that of the field `text`.

        Args:
            result: JSON values from a record, unchecked. Anything may be raised for a result of another shape.
        """
        text = result.get("text")
        return text if isinstance(text, str) else ""

    def rows(self, result: dict[str, Any]) -> Sequence[tuple[str, str]]:
        """Name and text of each row beside the picture on its page; by default those of `words`, if there are any.

        Args:
            result: as of `words`.
        """
        words = self.words(result)
        return ((self.name, words),) if words else ()

    @abstractmethod
    def build(self, bundle: Any, device: Any, precision: Any) -> Any:
        """Build a bundle's model on its device: a `workers.ports.ResultModel`, not run yet.

        Args:
            bundle: `workers.models.bundle.Bundle`.
            device: `workers.models.device.Device`.
            precision: `workers.models.device.Precision`.

        Raises:
            Misconfigured: the weights do not fit, or the device lacks the precision.
        """
        ...


@cache
def kinds() -> Mapping[str, ResultKind]:
    """The added kinds by name, in alphabetical order; loaded once.

    Raises:
        ValueError: a package can't be loaded, or its kind may not have this name. The text names the package.
    """
    found: dict[str, ResultKind] = {}
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        package = entry.dist.name if entry.dist is not None else entry.value
        remedy = f"correct or uninstall the package {package}"
        try:
            kind = entry.load()()
        except Exception as error:
            raise ValueError(f"the kind {entry.name!r} can't be loaded ({error!r}); {remedy}") from error
        if not isinstance(kind, ResultKind) or kind.name != entry.name:
            raise ValueError(f"{entry.value} is no ResultKind of the name {entry.name!r}; {remedy}")
        if not is_role_name(kind.name) or kind.name in RESERVED | found.keys():
            raise ValueError(f"a kind can't have the name {kind.name!r}: it is taken, or not {NAME_PATTERN}; {remedy}")
        found[kind.name] = kind
    return found
