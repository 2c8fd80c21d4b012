"""From a name or a folder to a model that runs: what TAGSTREAM_TAGGER and TAGSTREAM_CAPTIONER mean.

A bundle's `kind` names its builder. Ours are in `BUILDERS`; another package adds its own by an entry point of the
group `tagstream.models`, whose name is the kind and whose value is a module with

    build_tagger(bundle, device, precision, subset) -> Tagger        and/or
    build_captioner(bundle, device, precision) -> Captioner
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from workers.errors import Misconfigured
from workers.models.agreement import with_golden
from workers.models.bundle import Bundle, pinned
from workers.models.compact import compact_bundle
from workers.models.device import Device, Precision, choose_device
from workers.models.labels import label_ids
from workers.models.precision import Role, Tuned, resolve
from workers.models.template import TemplateCaptioner
from workers.models.tune import Trial, tune
from workers.ports import Captioner, Tagger

GROUP = "tagstream.models"

BUILDERS = {
    "efficientnet_lite0": "workers.models.compact",
    "ram": "workers.models.ram",
    "ram_plus": "workers.models.ram",
    "tag2text": "workers.models.ram",
}
TAGGERS_ONLY = ("ram", "ram_plus")
"""Kinds whose builder makes captioners too, but not of them."""


class BuildTagger(Protocol):
    def __call__(
        self, bundle: Bundle, device: Device, precision: Precision, subset: Sequence[int] | None = None
    ) -> Tagger:
        """A tagger that has not run yet, its weights on the device. `subset`: score these label ids only.

        Raises:
            Misconfigured: the weights do not fit, or the device lacks the precision.
        """
        ...


class BuildCaptioner(Protocol):
    def __call__(self, bundle: Bundle, device: Device, precision: Precision) -> Captioner:
        """A captioner that has not run yet; otherwise as `BuildTagger`."""
        ...


def load_tagger(
    name_or_folder: str | Path,
    *,
    device: str = "auto",
    precision: str = "tuned",
    state_dir: Path | None = None,
    cache_dir: Path | None = None,
    allow: Iterable[str] | None = None,
    threads: int | None = None,
    digest: str = "",
) -> Tagger:
    """The tagger for TAGSTREAM_TAGGER, its weights on the device; `warm_up` is still to be called.

    Args:
        name_or_folder: "compact", or a bundle's folder.
        device: auto, cpu or cuda.
        precision: tuned, fp32, bf16, fp16 or int8.
        state_dir: where tuning answers are kept; None: nowhere.
        cache_dir: where the compact bundle is kept; None: the user's cache folder.
        allow: names of the only labels to score; None means all.
        threads: that a CPU computes with; None: one a core.
        digest: the only one that the bundle may have, with every file checked; empty: any.

    Raises:
        Misconfigured: no such bundle, another one than was pinned, one that does not load, a label that it does not
            have, or a setting that the device does not know.
        Broken: the CUDA device does not start.
    """
    bundle = pinned(open_bundle(name_or_folder, cache_dir), digest, "TAGSTREAM_TAGGER_DIGEST")
    build: BuildTagger = _builder(bundle, "tagger")
    place = choose_device(device, threads=threads)
    chosen, max_batch = resolve(precision, bundle.digest, "tagger", place, state_dir)
    model = build(bundle, place, chosen, None if allow is None else label_ids(bundle, allow))
    model.max_batch = max_batch
    return model


def load_captioner(
    name_or_folder: str | Path,
    *,
    device: str = "auto",
    precision: str = "tuned",
    state_dir: Path | None = None,
    threads: int | None = None,
    digest: str = "",
) -> Captioner | TemplateCaptioner | None:
    """The captioner for TAGSTREAM_CAPTIONER: "template", "none", or a bundle's folder; otherwise as `load_tagger`.

    A `TemplateCaptioner` is no device model: it is called with tag names, on the finish thread.
    """
    if name_or_folder == "none":
        return None
    if name_or_folder == "template":
        return TemplateCaptioner()
    bundle = pinned(Bundle.open(Path(name_or_folder)), digest, "TAGSTREAM_CAPTIONER_DIGEST")
    build: BuildCaptioner = _builder(bundle, "captioner")
    place = choose_device(device, threads=threads)
    chosen, max_batch = resolve(precision, bundle.digest, "captioner", place, state_dir)
    model = build(bundle, place, chosen)
    model.max_batch = max_batch
    return model


def tune_model(
    name_or_folder: str | Path,
    state_dir: Path,
    *,
    role: Role = "tagger",
    device: str = "auto",
    cache_dir: Path | None = None,
    threads: int | None = None,
    report: Callable[[Trial], None] = lambda _: None,
) -> Tuned:
    """Find and store what `precision="tuned"` means for this bundle in this role on this device (see `tune`)."""
    bundle = open_bundle(name_or_folder, cache_dir)
    build = _builder(bundle, role)
    place = choose_device(device, threads=threads)

    def fresh(precision: Precision) -> Tagger | Captioner:
        model: Tagger | Captioner = build(bundle, place, precision)
        return model

    return tune(
        bundle.digest, role, fresh, place, state_dir, report=report, judge=lambda model: with_golden(bundle, model)
    )


def roles_of(bundle: Bundle) -> list[Role]:
    """What can be made of a bundle: a tagger, a captioner, or both.

    Raises:
        Misconfigured: nothing here knows the bundle's kind.
    """
    module = _module(bundle.manifest.kind)
    roles: list[Role] = ["tagger"] if hasattr(module, "build_tagger") else []
    if hasattr(module, "build_captioner") and bundle.manifest.kind not in TAGGERS_ONLY:
        roles.append("captioner")
    return roles


def open_bundle(name_or_folder: str | Path, cache_dir: Path | None = None) -> Bundle:
    """The bundle called "compact", or the one in this folder."""
    return compact_bundle(cache_dir) if name_or_folder == "compact" else Bundle.open(Path(name_or_folder))


def kinds() -> list[str]:
    """Every kind of bundle that can be built here."""
    return sorted({*BUILDERS, *(point.name for point in entry_points(group=GROUP))})


def _builder(bundle: Bundle, role: Role) -> Any:
    """`build_tagger` or `build_captioner` of the bundle's kind, imported only when it is needed."""
    kind = bundle.manifest.kind
    if role not in roles_of(bundle):
        raise Misconfigured(f"{bundle.folder} is a bundle of the kind {kind!r}, of which no {role} can be made.")
    return getattr(_module(kind), f"build_{role}")


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
