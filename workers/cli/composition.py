"""Composition root: builds every object from Settings. All other modules know only their ports."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from workers import __version__
from workers.backends.clock import SystemClock
from workers.cli.clients import publisher, record_source, result_cache
from workers.cli.decoders import intake, judge
from workers.cli.profiles import allowed_names, profiles
from workers.errors import Unavailable
from workers.models.load import load_captioner, load_tagger
from workers.models.template import TemplateCaptioner
from workers.pipeline.worker import Worker, WorkerOptions
from workers.ports import Captioner, Tagger
from workers.settings import Settings
from workers.types import Caption, Transform

logger = logging.getLogger(__name__)

Made = TypeVar("Made")


class Stopped(Exception):
    """A stop was asked for before the group was joined: nothing is to be drained."""


@dataclass(frozen=True)
class Loaded:
    """The models that the settings name. `template` stands in for a captioner where none is loaded."""

    tagger: Tagger | None
    captioner: Captioner | None
    template: Callable[[Sequence[str]], Caption] | None


def compose(settings: Settings, *, transactional_id: str, stopping: Callable[[], bool]) -> Worker:
    """A worker of real parts, its models loaded and not yet warm. It joins the group when it is run.

    Args:
        transactional_id: ours alone.
        stopping: asked while a broker is waited for at the start; true raises `Stopped` from `Worker.run`.

    Raises:
        Misconfigured: a bundle that does not load, profiles that do not fit, addresses that can't be.
        Broken: the device does not start.
    """
    models = load_models(settings)
    return Worker(
        source=lambda: _patiently(lambda: record_source(settings), stopping),
        publisher=lambda source: _patiently(lambda: publisher(settings, source, transactional_id), stopping),
        intake=intake(settings, _transforms(models)),
        cache=result_cache(settings),
        tagger=models.tagger,
        captioner=models.captioner,
        template=models.template,
        clock=SystemClock(),
        options=worker_options(settings, models.tagger, transactional_id),
    )


def load_models(settings: Settings) -> Loaded:
    tagger = load_tagger(
        settings.tagger,
        device=settings.device,
        precision=settings.precision,
        state_dir=settings.state_dir,
        allow=allowed_names(settings),
        digest=settings.tagger_digest,
    )
    captioner = load_captioner(
        settings.captioner,
        device=settings.device,
        precision=settings.precision,
        state_dir=settings.state_dir,
        digest=settings.captioner_digest,
    )
    if isinstance(captioner, TemplateCaptioner):
        return Loaded(_bounded(tagger, settings), None, captioner)
    return Loaded(_bounded(tagger, settings), captioner and _bounded(captioner, settings), None)


AnyModel = TypeVar("AnyModel", Tagger, Captioner)


def _bounded(model: AnyModel, settings: Settings) -> AnyModel:
    if settings.max_batch:
        model.max_batch = min(settings.max_batch, model.max_batch or settings.max_batch)
    return model


def _transforms(models: Loaded) -> list[Transform]:
    return list(dict.fromkeys(model.transform for model in (models.tagger, models.captioner) if model is not None))


def worker_options(settings: Settings, tagger: Tagger | None, transactional_id: str = "worker") -> WorkerOptions:
    return WorkerOptions.of(
        settings,
        judge=judge(settings),
        profiles=profiles(settings, tagger),
        worker_version=__version__,
        journal=settings.state_dir / "journals" / re.sub(r"[^A-Za-z0-9._-]", "_", transactional_id),
    )


def _patiently(make: Callable[[], Made], stopping: Callable[[], bool]) -> Made:
    """At the start a broker that is away is waited for: to exit would only make the orchestrator start us again."""
    while not stopping():
        try:
            return make()
        except Unavailable as error:
            logger.warning("waiting: %s", error)
    raise Stopped
