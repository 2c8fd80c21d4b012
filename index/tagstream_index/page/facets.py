"""The tags beside a result as a tree: animal, below it dog, below that its breeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from starlette.requests import Request

from tagstream_index.page.asked import field
from tagstream_index.page.finding import Counts, Result
from tagstream_index.page.typed import Typed, named

FEW, MANY = 24, 200
"""Tags of the first level that are shown at first, and after *More tags*."""
_DEEPEST: Final = 8
_NAME_CHARS: Final = 100


class Facet(NamedTuple):
    """A tag, its number of hits, and the search of its link."""

    name: str
    number: int
    text: str
    chosen: bool = False
    opened: bool | None = None
    """Whether the tags below it are shown; None: there are none."""
    below: Sequence[Facet] = ()


def shown(request: Request, result: Result, typed: Typed) -> dict[str, Any]:
    """Counts of a result and its facets, for the templates. `sift` and `more` of the address choose among the tags."""
    sift = field(request, "sift")[:_NAME_CHARS].strip()
    counts, most = result.counts(sift), MANY if field(request, "more") else FEW
    facets, cut = facets_of(counts, typed, most, flat=bool(sift))
    counting = "1" if request.scope["path"] == "/" else ""  # without a script every page asks for its counts
    return {"counts": counts, "facets": facets, "cut": cut and most == FEW, "sift": sift, "counting": counting}


def facets_of(counts: Counts, typed: Typed, most: int, *, flat: bool = False) -> tuple[list[Facet], bool]:
    """The tags without wider ones, and below chosen ones the narrower ones; also whether some were left out.

    Args:
        most: tags of the first level; of a narrower one half as many.
        flat: all tags in one level.
    """
    numbers = dict(counts.tags)
    above = {} if flat else {name: _above(name, numbers, counts.parents) for name in numbers}
    below = defaultdict[str, list[str]](list)
    for name in numbers:
        below[next(iter(above.get(name, ())), "")].append(name)
    wanted = [name for token in typed.filters for name in token.wanted if name in numbers]
    opened = {each for name in wanted for each in (name, *above.get(name, ()))}
    cut = False

    def level(name: str) -> list[Facet]:
        nonlocal cut
        shown = below[name][: most // 2 if name else most]
        cut |= len(shown) < len(below[name])
        return [
            Facet(
                each,
                numbers[each],
                _instead(each, typed, above),
                typed.has(named("tag", each)),
                each in opened if each in below else None,
                level(each) if each in opened and each in below else (),
            )
            for each in shown
        ]

    return level(""), cut


def _above(name: str, numbers: Mapping[str, int], parents: Mapping[str, Sequence[str]]) -> list[str]:
    """The counted wider names of a tag, nearest first; none if they go round in a circle."""
    found = [name]
    while wider := [each for each in parents.get(found[-1], ()) if each in numbers and each != found[-1]]:
        if wider[0] in found or len(found) > _DEEPEST:
            return []
        found.append(wider[0])
    return found[1:]


def _instead(name: str, typed: Typed, above: Mapping[str, Sequence[str]]) -> str:
    """The search with this tag alone of its line: a tag above or below goes, and a chosen one goes itself."""
    line = above.get(name, ())
    for token in typed.filters:
        if token.wanted and all(each in line or name in above.get(each, ()) for each in token.wanted):
            typed = typed.without(token)
    return typed.toggled(named("tag", name)).text
