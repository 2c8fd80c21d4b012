"""Composition root: builds the worker from Settings; other modules know only ports."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar, cast

from schemas.enriched_image import USES
from workers import __version__
from workers.assembly.clients import corrections, object_store, publisher, record_source, result_cache
from workers.assembly.decoders import allowed_names, decoders, intake, judge, limits, profiles, scale_of_facts
from workers.assembly.remote import kind_of_fields, remote_captioner
from workers.errors import Unavailable
from workers.models.device import choose_device
from workers.models.load import load
from workers.models.result_kinds import added_kinds
from workers.models.template import TemplateCaptioner
from workers.pipeline.kind_role import KindRole
from workers.pipeline.roles import ModelsByUse, make_roles
from workers.pipeline.worker import Worker, WorkerOptions
from workers.ports import Model, SystemClock, Tagger
from workers.rendition import Rendition
from workers.settings import Settings

logger = logging.getLogger(__name__)

Made = TypeVar("Made")


class Stopped(Exception):
    """The worker was stopped before it joined the group."""


def compose(
    settings: Settings, *, transactional_id: str, stopping: Callable[[], bool], models: ModelsByUse | None = None
) -> Worker:
    """A worker of real parts with loaded models; it joins the group when run.

    Args:
        transactional_id: ours alone.
        stopping: asked while a broker is waited for at the start; true raises `Stopped` from `Worker.run`.
        models: those of `load_models`; None: they are loaded.

    Raises:
        Misconfigured: a bundle that does not load, profiles that do not fit, addresses that can't be.
        Broken: the device does not start.
    """
    models = load_models(settings) if models is None else models
    said = corrections(settings)
    template = TemplateCaptioner() if settings.captioner == "template" else None
    added = added_roles(settings, models)
    remote = remote_captioner(settings)
    roles = make_roles(
        models,
        template,
        said,
        keep_scores=settings.keep_scores,
        facts=settings.facts,
        added=added,
        remote=remote,
        fields=kind_of_fields(remote),
    )
    transforms = list(dict.fromkeys(role.model.transform for role in roles.kept))
    device = choose_device(settings.device, threads=settings.part.threads, share=1 / settings.part.of).name
    store = object_store(settings)
    options = worker_options(settings, models.get("tagger"), transactional_id)

    return Worker(
        source=lambda: patiently(lambda: record_source(settings), stopping),
        publisher=lambda source: patiently(lambda: publisher(settings, source, transactional_id), stopping),
        when_warm=lambda: logger.info("%s", banner(settings, models, device)),  # precision and batch are settled
        refused_keys=lambda: store.refused_keys(settings.buckets[0]),
        intake=intake(settings, transforms, store),
        cache=result_cache(settings),
        corrections=said,
        roles=roles,
        clock=SystemClock(),
        options=options,
    )


def load_models(settings: Settings) -> ModelsByUse:
    """The settings' models, by their use; those of added roles too."""
    own: dict[str, Any] = {"tagger": {"allow": allowed_names(settings)}}
    models: Any = {
        use: load(
            use,
            bundle.name_or_folder,
            digest=bundle.digest,
            device=settings.device,
            precision=settings.precision,
            state_dir=settings.state_dir,
            threads=settings.part.threads,
            share=1 / settings.part.of,
            **own.get(use, {}),
        )
        for use, bundle in settings.bundles().items()
    }
    for model in models.values() if settings.max_batch else ():
        model.max_batch = min(settings.max_batch, model.max_batch or settings.max_batch)
    return cast(ModelsByUse, models)


def added_roles(settings: Settings, models: Mapping[str, Any]) -> list[KindRole]:
    """The roles of TAGSTREAM_ROLES with their models, in order."""
    return [KindRole(added_kinds()[name], models[name]) for name in settings.roles]


def worker_options(settings: Settings, tagger: Tagger | None, transactional_id: str = "worker") -> WorkerOptions:
    file_name = re.sub(r"[^A-Za-z0-9._-]", "_", transactional_id)
    return WorkerOptions.of(
        settings,
        background=frozenset(settings.background_topics),
        decoders=decoders(settings),
        judge=judge(settings),
        allows=limits(settings).allow,
        scale_of=partial(scale_of_facts, settings),
        rendition=Rendition.of(settings.rendition, settings.buckets),
        profiles=profiles(settings, tagger),
        worker_version=__version__,
        journal=settings.state_dir / "journals" / file_name,
    )


def patiently(make: Callable[[], Made], stopping: Callable[[], bool]) -> Made:
    """Wait for an absent broker: to exit would only start the process again."""
    while not stopping():
        try:
            return make()
        except Unavailable as error:
            logger.warning("waiting: %s", error)
    raise Stopped


def banner(settings: Settings, models: ModelsByUse, device: str) -> str:
    """One log line: version, models, device, topics, group and delivery."""
    by_use: Any = models
    elsewhere = {"captioner": f"{settings.caption_model} at {settings.captioner}"} if settings.captioner_address else {}
    used = ", ".join(
        f"{use} {_model(by_use[use]) if use in by_use else elsewhere.get(use) or getattr(settings, use)}"
        for use in (*USES, *settings.roles)
    )
    if settings.sample < 1:
        used += f", a sample of {settings.sample:.2%} of the objects"
    skipped = settings.skipped_topic or "nowhere, counted only"
    return (
        f"tagstream {__version__}: {used}, on {device}; reads {', '.join(map(str, settings.input_topics))} as group "
        f"{settings.group}; writes {settings.output_topic}, dead letters to {settings.dead_letter_topic}, "
        f"skips to {skipped}; delivery {settings.delivery}"
    )


def _model(model: Model) -> str:
    random = ", RANDOM WEIGHTS" if model.random_weights else ""
    return f"{model.name} {model.digest[:12]} ({model.precision}, batches of up to {model.max_batch}{random})"
