"""Finds the kind of an added role."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.result_kinds import ResultKind, kinds
from workers.errors import Misconfigured, nearest
from workers.models.bundle import Bundle
from workers.settings import setting_of


def added_kinds() -> Mapping[str, ResultKind]:
    """The kinds that installed packages add, by name. Raises Misconfigured: one of them is not as it must be."""
    try:
        return kinds()
    except ValueError as error:
        raise Misconfigured(f"Roles: {error}.") from error


def kind_of(role: str, bundle: Bundle) -> ResultKind:
    """The kind of a role, which builds this bundle's model.

    Raises Misconfigured: no package adds the role, or it takes bundles of another kind, or none.
    """
    known = added_kinds()
    if role not in known:
        raise Misconfigured(
            f"{setting_of(role)}: no installed package adds this role (installed: {', '.join(known) or 'none'})."
            f"{nearest(role, known)}"
        )
    kind = known[role]
    if not kind.bundle_kind:
        kind.build(bundle, None, None)  # which says what gives this result
    if bundle.manifest.kind != kind.bundle_kind:
        raise Misconfigured(
            f"{setting_of(role)}: {bundle.folder} is a bundle of the kind {bundle.manifest.kind!r}; this role "
            f"needs one of the kind {kind.bundle_kind!r}."
        )
    return kind
