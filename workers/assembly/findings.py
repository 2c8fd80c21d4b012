"""What `tagstream check` asks, and the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from schemas.enriched_image import USES
from schemas.printable import counted
from workers.assembly.clients import object_store, output_topics, redis, security, servers
from workers.assembly.decoders import allowed_names, decoders, intake, profiles
from workers.assembly.needs import compared, container_limit, worst_bytes
from workers.assembly.parts import found_here, wanted_processes
from workers.assembly.remote import endpoint_check
from workers.assembly.requirements import opened, require_embedder, require_fields
from workers.assembly.topics import advised_replication, deviations, found_topics, wanted_topics
from workers.backends.kafka import require_topics
from workers.environment import require
from workers.errors import TagstreamError, Unavailable
from workers.models.bundle import pinned
from workers.models.labels import label_ids
from workers.models.result_kinds import kind_of
from workers.pipeline.profiles import OFF
from workers.service.process import Slot
from workers.settings import FIELDS_KIND, Settings, setting_of


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one question; `error` is None if all is well."""

    about: str
    says: str
    error: TagstreamError | None = None


def findings_of(settings: Settings) -> Iterator[Finding]:
    """Yield the answer to each question, whatever the others' answers."""
    for about, ask in _questions(settings):
        try:
            yield Finding(about, ask())
        except Unavailable as error:  # `about` names the dependency
            yield Finding(about, "\n".join(filter(None, (error.detail, error.advice))), error)
        except TagstreamError as error:
            yield Finding(about, str(error), error)


def _questions(settings: Settings) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "Kafka", lambda: _kafka(settings)
    if not settings.s3_endpoint:
        yield "Object store", lambda: str(require(settings, "s3_endpoint"))
    if not settings.buckets:
        yield "Buckets", lambda: str(require(settings, "buckets"))
    for bucket in settings.buckets:
        yield f"Bucket {bucket}", lambda bucket=bucket: _bucket(settings, bucket)  # type: ignore[misc]
    if settings.s3_endpoint:
        yield "Decoders", lambda: _decoders(settings)
    yield "Memory", lambda: _memory(settings)
    if settings.device == "cuda":
        yield "Device", _cuda
    yield "Redis", lambda: _redis(settings)
    for use in (*USES, *settings.roles):
        about = use.capitalize() if use in USES else f"Role {use}"
        yield about, lambda use=use: _bundle(settings, use)  # type: ignore[misc]
    if "embedding" in settings.want:
        yield "Embeddings", lambda: f"{require_embedder(settings)} gives them"
    if FIELDS_KIND in settings.want:
        yield "Fields", lambda: require_fields(settings)
    if settings.labels_file is not None:
        yield "Allowed labels", lambda: _allowed(settings)
    if settings.profiles is not None:
        yield "Profiles", lambda: _profiles(settings)
    yield "State folder", lambda: _state(settings)


def _kafka(settings: Settings) -> str:
    corrections = [settings.corrections_topic] if settings.corrections_topic else []
    others = [*output_topics(settings), *corrections]
    require_topics(servers(settings), [*settings.topics, *others], security=security(settings))
    wanted, copies = wanted_topics(settings), advised_replication(settings)
    differing = deviations(wanted, found_topics(settings, wanted), servers=servers(settings), replication=copies)
    advice = [f"\n{deviation.topic} {deviation.says}" for deviation in differing]
    how = "\n`tagstream topics check` has the commands that correct it" if advice else ""
    topics = ", ".join([*map(str, settings.input_topics), *others])
    return f"{servers(settings)} has the topics {topics}" + "".join(advice) + how


def _bucket(settings: Settings, bucket: str) -> str:
    with closing(object_store(settings)) as store:
        store.check(bucket)
    return f"{settings.s3_endpoint} lists it"


def _decoders(settings: Settings) -> str:
    with closing(intake(settings, ())) as made:
        made.check().result()
        caveat = f"; {made.caveat}" if made.caveat else ""
    return f"child processes ({decoders(settings)}) decode good images of {', '.join(settings.formats)}{caveat}"


def _memory(settings: Settings) -> str:
    weights = sum(opened(bundle.name_or_folder).size_bytes for bundle in settings.bundles().values())
    processes = wanted_processes(settings, lambda: found_here(settings.device))
    return compared(worst_bytes(settings, decoders(settings), weights, processes), container_limit())


def _cuda() -> str:
    from workers.models.device import require_cuda  # brings torch

    require_cuda()
    return "torch finds a CUDA device"


def _redis(settings: Settings) -> str:
    server = redis(settings)
    if server is None:
        return "no cache (TAGSTREAM_REDIS_URL is not set); every image is computed"
    with closing(server):
        server.check()
    trust = "" if settings.cache_key else "; its entries are trusted unsigned (TAGSTREAM_CACHE_KEY_FILE is not set)"
    return f"{settings.redis_url} answers{trust}"


def _bundle(settings: Settings, use: str) -> str:
    named = settings.bundles().get(use)
    if use == "captioner" and settings.captioner_address is not None:
        return endpoint_check(settings).ask()
    if named is None:
        word: str = getattr(settings, use)
        return word
    bundle = pinned(opened(named.name_or_folder), named.digest, setting_of(use))
    if use in settings.roles:
        kind_of(use, bundle)
    is_pinned = f", pinned by {setting_of(use)}" if named.digest else ""
    labels = f", {counted(bundle.manifest.labels, 'label')}" if use in USES else ""
    return f"{bundle.name}{labels}, digest {bundle.digest}{is_pinned}"


def _allowed(settings: Settings) -> str:
    bundle = opened(settings.bundles()["tagger"].name_or_folder)
    ids = label_ids(bundle, allowed_names(settings) or [])
    return f"{len(ids)} of the {bundle.manifest.labels} of {bundle.name}, from {settings.labels_file}"


def _profiles(settings: Settings) -> str:
    bundle = opened(settings.bundles()["tagger"].name_or_folder)
    found = profiles(settings, bundle)
    scored = label_ids(bundle, allowed_names(settings) or bundle.labels)
    counts = {name: int((profile.thresholds[scored] < OFF).sum()) for name, profile in sorted(found.items())}
    return f"labels that each can show: {', '.join(f'{name} {count}' for name, count in counts.items())}"


def _state(settings: Settings) -> str:
    with Slot(settings.state_dir / "slots", settings.group) as slot:
        return f"{settings.state_dir} can be written; the next worker here gets slot {slot.number}"
