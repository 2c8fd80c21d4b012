"""What captions by an address need of the package that asks it."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Final, Protocol, cast

from schemas.result_kinds import ResultKind
from workers.errors import not_installed
from workers.models.result_kinds import added_kinds
from workers.ports import RemoteCaptioner
from workers.settings import FIELDS_KIND, Settings

GROUP: Final = "tagstream.captioners"


def remote_captioner(settings: Settings) -> RemoteCaptioner | None:
    """The captioner of TAGSTREAM_CAPTIONER; None: that is no address.

    It asks nothing before its `start`. Raises Misconfigured: the package is not installed, or one of its settings
    is wrong.
    """
    if settings.captioner_address is None:
        return None
    return cast(RemoteCaptioner, _made("address", settings))


class EndpointCheck(Protocol):
    """An address's settings, right in themselves. Both methods raise Unavailable, `ask` also Misconfigured."""

    def ask(self) -> str:
        """Ask the service for its models; returns a sentence for people."""
        ...

    def tokens_spent(self) -> int | None:
        """Tokens of this UTC day; None: they have no limit."""
        ...


def endpoint_check(settings: Settings) -> EndpointCheck:
    """Check the settings of an address, without a request. Raises Misconfigured: as `remote_captioner`."""
    return cast(EndpointCheck, _made("check", settings))


def _made(name: str, settings: Settings) -> Any:
    points = entry_points(group=GROUP, name=name)
    if not points:
        raise not_installed("tagstream-remote")
    return next(iter(points)).load()(settings)


def kind_of_fields(captioner: RemoteCaptioner | None) -> ResultKind | None:
    """The kind of the fields of its answers; None: they have none."""
    return None if captioner is None or captioner.fields is None else added_kinds().get(FIELDS_KIND)
