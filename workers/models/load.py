"""Loads models: from the name or folder that TAGSTREAM_TAGGER and its like hold to a model that runs.

A bundle's `kind` names its builder. Ours are in `BUILDERS`; another package adds its own by an entry point of the
group `tagstream.models`, whose name is the kind and whose value is a module with a function for each use of `USES`,

    build_tagger(bundle, device, precision, subset) -> Tagger        and/or
    build_captioner(bundle, device, precision) -> Captioner          and so on,

and, where not every bundle has all these uses, `uses_of(bundle) -> Collection[str]`. An added role
(`schemas.result_kinds`) is a use too, which its kind builds.

A package makes bundles of files that it knows, such as wheels, by an entry point of the group `tagstream.importers`;
its value is a function as `Importer`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, cast

from workers.errors import Misconfigured
from workers.models.bundle import Bundle, pinned
from workers.models.compact import compact_bundle
from workers.models.device import Device, Execution, Precision, choose_device
from workers.models.dual.config import KINDS
from workers.models.execution import keep_in
from workers.models.files import require_sha256
from workers.models.labels import label_ids
from workers.models.precision import Tuned, resolve
from workers.models.pull import Progress
from workers.models.ram.config import PUBLISHED
from workers.models.result_kinds import added_kinds, kind_of
from workers.models.tune import USES, Agreement, Trial, tune, use_named
from workers.ports import Captioner, Model, Tagger
from workers.settings import setting_of

GROUP = "tagstream.models"
COMPILED = "compiled"
"""In the state folder, what torch has compiled."""

BUILDERS: dict[str, str] = {
    "efficientnet_lite0": "workers.models.compact",
    "timm": "workers.models.timm_network",
    **dict.fromkeys(PUBLISHED, "workers.models.ram.adapters"),
    **dict.fromkeys(KINDS, "workers.models.dual.adapters"),
}


class Build(Protocol):
    def __call__(self, bundle: Bundle, device: Device, precision: Precision, **options: Any) -> Any:
        """A model of one use on its device, not run yet.

        Args:
            options: `subset` (of taggers): score these label ids only, ascending.

        Raises:
            Misconfigured: the weights do not fit, or the device lacks the precision.
        """


def load(
    use: str,
    name_or_folder: str | Path,
    *,
    device: str = "auto",
    precision: str = "tuned",
    state_dir: Path | None = None,
    cache_dir: Path | None = None,
    allow: Iterable[str] | None = None,
    threads: int | None = None,
    share: float = 1.0,
    digest: str = "",
) -> Any:
    """Return a bundle's model for one of `USES` or a role, unwarmed.

    Args:
        name_or_folder: "compact", or a bundle's folder.
        state_dir: where tuning answers are kept; None: nowhere.
        cache_dir: where the compact bundle is kept; None: the user's cache folder.
        allow: names of the only labels to score, for a tagger; None means all.
        digest: the only one that the bundle may have, with every file checked; empty: any.

    Raises:
        Misconfigured: no such bundle, another one than was pinned, one that does not load or has no such use, a label
            that it does not have, a setting that the device does not know, or a state folder for what torch compiles
            that others can write to.
        Broken: the CUDA device does not start.
    """
    bundle = pinned(open_bundle(name_or_folder, cache_dir), digest, setting_of(use))
    build = _builder(bundle, use)
    place = choose_device(device, threads=threads, share=share)
    chosen = resolve(precision, bundle.digest, use, place, state_dir)
    _keep_compiled(chosen.execution, state_dir)
    options = {} if allow is None else {"subset": label_ids(bundle, allow)}
    model = build(bundle, replace(place, execution=chosen.execution), chosen.precision, **options)
    model.max_batch = chosen.max_batch or model.max_batch
    return model


def load_tagger(name_or_folder: str | Path, **options: Any) -> Tagger:
    """As `load`."""
    tagger: Tagger = load("tagger", name_or_folder, **options)
    return tagger


def load_captioner(name_or_folder: str | Path, **options: Any) -> Captioner:
    """As `load`."""
    captioner: Captioner = load("captioner", name_or_folder, **options)
    return captioner


def _keep_compiled(execution: Execution, state_dir: Path | None) -> None:
    if execution == "compiled" and state_dir is not None:
        keep_in(state_dir / COMPILED)


def tune_model(
    name_or_folder: str | Path,
    state_dir: Path,
    *,
    use: str = "tagger",
    device: str = "auto",
    threads: int | None = None,
    share: float = 1.0,
    report: Callable[[Trial], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Tuned:
    """Find and store what `precision="tuned"` means here (see `tune`; `threads` and `share` as of `load`)."""
    bundle = open_bundle(name_or_folder)
    build = _builder(bundle, use)
    place = choose_device(device, threads=threads, share=share)

    def fresh(precision: Precision, execution: Execution) -> Model:
        _keep_compiled(execution, state_dir)
        model: Model = build(bundle, place.executing(execution), precision)
        return model

    return tune(
        bundle.digest,
        use,
        fresh,
        place,
        state_dir,
        report=report,
        progress=progress,
        judge=lambda model: with_golden(bundle, use, model),
    )


def with_golden(bundle: Bundle, use: str, model: Model) -> Agreement | None:
    """Compare a whole bundle's model with the bundle's golden answers; None if it has none for this use."""
    return None if bundle.golden is None else use_named(use).agreement(model, bundle.golden)


def uses_of(bundle: Bundle) -> list[str]:
    """The uses of a bundle's model. Raises Misconfigured: nothing here knows the bundle's kind."""
    kind = bundle.manifest.kind
    roles = [name for name, added in added_kinds().items() if added.bundle_kind == kind]
    if roles and not (kind in BUILDERS or entry_points(group=GROUP, name=kind)):
        return roles
    module = _module(kind)
    offered: Callable[[Bundle], Collection[str]] = getattr(module, "uses_of", lambda _: USES)
    of_this = offered(bundle)
    return [*(use for use in USES if use in of_this and hasattr(module, f"build_{use}")), *roles]


def open_bundle(name_or_folder: str | Path, cache_dir: Path | None = None) -> Bundle:
    """The bundle called "compact", or the one in this folder."""
    return compact_bundle(cache_dir) if name_or_folder == "compact" else Bundle.open(Path(name_or_folder))


def kinds() -> list[str]:
    """Every kind of bundle that can be built here."""
    others = {point.name for point in entry_points(group=GROUP)}
    return sorted({*BUILDERS, *others, *(kind.bundle_kind for kind in added_kinds().values())} - {""})


def _builder(bundle: Bundle, use: str) -> Build:
    """The bundle kind's `build_<use>` or the role's `build`, imported when needed."""
    if use in added_kinds():
        return cast(Build, kind_of(use, bundle).build)  # without options, which none gives for a role
    kind = bundle.manifest.kind
    if use not in (uses := uses_of(bundle)):
        raise Misconfigured(
            f"{bundle.folder} is a bundle of the kind {kind!r}, and no {use} can be made of it: "
            f"it can be a {' and a '.join(uses)}."
        )
    build: Build = getattr(_module(kind), f"build_{use}")
    return build


def _module(kind: str) -> object:
    if kind in BUILDERS:
        return import_module(BUILDERS[kind])
    points = entry_points(group=GROUP, name=kind)
    if not points:
        known = ", ".join(kinds())
        raise Misconfigured(
            f"No builder for bundles of the kind {kind!r}; known are {known}. Install the package that provides it."
        )
    point = next(iter(points))
    try:
        return point.load()
    except ImportError as error:
        raise Misconfigured(f"The builder of {kind!r} ({point.value}) does not import: {error}.") from error


IMPORTERS = "tagstream.importers"


class Importer(Protocol):
    def __call__(self, file: Path, out: Path, *, progress: Progress, replace_existing: bool) -> Bundle | None:
        """Make a bundle of a file; None: the file is not one of this importer's.

        Args:
            file: any file at all; ask its name, size or sha256 before reading it whole.
            out: the bundle's folder, for `Bundle.write`.

        Raises:
            Misconfigured: the file is this importer's and damaged, or of another version. Nothing is left behind.
        """


def import_added(
    file: Path, out: Path, *, sha256: str | None, progress: Progress, replace_existing: bool
) -> Bundle | None:
    """The bundle of the first importer that knows the file, or None.

    Raises Misconfigured: no such file, another sha256, a package that does not import, or as `Importer`.
    """
    points = sorted(entry_points(group=IMPORTERS), key=lambda point: point.name)
    if not points:
        return None
    if not file.is_file():
        raise Misconfigured(f"{file} is no file.")
    if sha256 is not None:
        require_sha256(file, sha256, partial(progress, "reading the file"))
    for point in points:
        try:
            importer: Importer = point.load()
        except ImportError as error:
            raise Misconfigured(f"The importer {point.name!r} ({point.value}) does not import: {error}.") from error
        if (made := importer(file, out, progress=progress, replace_existing=replace_existing)) is not None:
            return made
    return None
