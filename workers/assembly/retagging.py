"""Plans of `retag` made and carried out on real topics."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from schemas.options import Options
from schemas.text import VERSION_MAX
from schemas.version import told_version
from workers.assembly.choices import Choices
from workers.assembly.clients import corrections, own_publisher, record_source, security, servers
from workers.assembly.decoders import allowed_names, profiles
from workers.assembly.progress import Counting, uncounted
from workers.assembly.remote import kind_of_fields, remote_captioner
from workers.assembly.requirements import opened
from workers.assembly.topic_reading import Foreign, drain, read_topic
from workers.assembly.topics import state_of
from workers.backends.kafka import TopicState, between, group_watch, require_topics, tail
from workers.errors import Misconfigured
from workers.models.bundle import require_pinned
from workers.models.result_kinds import kind_of
from workers.models.template import TemplateCaptioner
from workers.pipeline.kind_role import KindRole
from workers.pipeline.options import WorkerOptions
from workers.pipeline.published import version_in
from workers.ports import CorrectionLog, SystemClock
from workers.republish.passes import ReadTopic, Spans
from workers.retag.changes import ChangesWriter, Numbering, PlannedChanges
from workers.retag.current import CurrentSettings, UnloadedModel
from workers.retag.plan_file import PlanFile, PlanHead, write_plan
from workers.retag.plan_run import PlanRun, RunReport
from workers.retag.planned_work import Pacing, group_of
from workers.retag.planning import Newest, OutcomeChoice, Planning
from workers.retag.remake import Remaker
from workers.retag.report import PlanReport
from workers.service.process import Slot, stop_on_signals
from workers.settings import Settings, setting_of
from workers.types import Partition, ReadRecord


def current_settings(settings: Settings) -> CurrentSettings:
    """The settings of a retag, from the bundles' files. An address tells its digest, and is not called.

    Raises Misconfigured: a bundle, an address's setting, or a file of labels or profiles, can't be used.
    """
    models: dict[str, UnloadedModel] = {}
    added: list[KindRole] = []
    for use, (name, digest) in settings.bundles().items():
        bundle = opened(name)
        require_pinned(bundle, digest, setting_of(use))
        models[use] = UnloadedModel(bundle, allowed_names(settings) if use == "tagger" else None)
        if use in settings.roles:
            added.append(KindRole(kind_of(use, bundle), models[use]))
    tagger, remote = models.get("tagger"), remote_captioner(settings)
    template = TemplateCaptioner() if settings.captioner == "template" else None
    want = Options.model_validate({"want": settings.want}).want
    captioner, thresholds = models.get("captioner", remote), profiles(settings, tagger)
    return CurrentSettings(tagger, captioner, template, thresholds, want, tuple(added), kind_of_fields(remote))


def make_plan(
    settings: Settings,
    output: Path,
    choice: OutcomeChoice,
    changes: Path | None = None,
    counting: Counting = uncounted,
    note: Callable[[str], object] = lambda _: None,
) -> tuple[PlanReport, str]:
    """Read the enriched topic and write a plan; returns its report and digest.

    Args:
        changes: where to write all that changes.

    Raises:
        Misconfigured: a setting, a bundle or a topic is not as it must be, or a file can't be written.
        Unavailable: a broker does not answer.
    """
    ends: dict[Partition, int] = {}
    topic = settings.output_topic
    current, state, said = current_settings(settings), state_of(settings, topic), corrections_read(settings)
    with Newest() as newest, ChangesWriter() as writer:
        kept = None if changes is None else PlannedChanges(writer, Numbering(current))
        reading = Planning(Remaker(current, said, SystemClock()), newest, choice, kept)
        foreign = read_topic(settings, topic, reading.take, keep=ends.update, counting=counting)
        reading.flush()
        for record, why in reading.late:
            foreign.note(record, why)
        with counting("outcomes, sorting (each counts twice)", 2 * len(newest)) as advance:
            found = newest.settle(advance)
        policy = state.settings.get("cleanup.policy")
        compacted = None if policy is None else "compact" in policy
        report = PlanReport(topic, state.partitions, compacted, reading.records, foreign.count, found)
        planned = newest.planned() if kept is None else kept.seen(newest.planned())
        digest = write_plan(output, _head(report, current, state, ends), planned)
        if changes is not None:
            images, unknown = report.counts["subjects"], report.counts["need_image"]
            sides = {"before": topic, "after": "the current settings"}
            writer.write(changes, **sides, images=images - unknown, unknown=unknown, plan=digest)
    for line in foreign.notes("not outcomes"):
        note(line)
    return report, digest


def corrections_read(settings: Settings, stopping: Callable[[], bool] = lambda: False) -> CorrectionLog | None:
    """The manual corrections until now; None: their topic is not set."""
    said = corrections(settings)
    if said is not None:
        said.catch_up(stopping)
    return said


def _head(report: PlanReport, current: CurrentSettings, state: TopicState, ends: Mapping[Partition, int]) -> PlanHead:
    return PlanHead(
        made_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        topic=report.topic,
        topic_id=state.id,
        ends={place.number: end for place, end in sorted(ends.items())},
        settings=current.parts,
        counts=report.counts,
        lines=report.found.planned,
    )


def read_enriched(
    settings: Settings, take: Callable[[ReadRecord], None], spans: Spans | None, counting: Counting = uncounted
) -> None:
    """`workers.republish.passes.ReadTopic` on Kafka."""
    address, login, topic = servers(settings), security(settings), settings.output_topic
    if spans is None:
        reading = tail(address, [topic], start="beginning", follow=False, security=login)
    else:
        reading = between(address, spans, security=login)
    with reading:
        drain(reading, f"offsets of {topic}, last pass", Foreign().taking(take), counting=counting)


def chosen(plan: PlanFile, choices: Choices) -> tuple[PlanFile, Choices]:
    """The plan of the accepted subjects, and the choices that count.

    Records that need the image are left out: the page did not show their new tags.
    """
    judged = (each.subject for each in plan if each.verdict == "rescore" and each.subject in choices.verdicts)
    verdicts = {subject: choices.verdicts[subject] for subject in judged}
    only = {subject for subject, verdict in verdicts.items() if verdict == "accepted"}
    return plan.of_subjects(only), choices._replace(verdicts=verdicts)


def carry_out(
    settings: Settings, plan: PlanFile, events_to: str, pace: Pacing, counting: Counting = uncounted
) -> RunReport:
    """Run a plan until it is done or stopped.

    Chosen subjects with an outcome since the plan are passed over: it is an earlier run's, or a newer one.

    Raises:
        Misconfigured: the plan does not fit any more, another process carries it out, or a setting is wrong.
        Unavailable: no broker answers.
        Broken: another process took the transactional id.
    """
    slot, stopping = Slot(settings.state_dir / "retag", group_of(plan.digest)), threading.Event()
    with ExitStack() as cleanup:
        if cleanup.enter_context(slot).number:
            raise Misconfigured("another process carries out this plan: wait for its end, or end it with SIGTERM")
        cleanup.enter_context(stop_on_signals(stopping.set))
        progress = cleanup.enter_context(ExitStack())
        advance = progress.enter_context(counting("planned records", plan.head.lines))
        told = {"settled": advance, "before_passes": progress.close}
        read_topic = partial(read_enriched, settings, counting=counting)
        run, passed = _made(settings, plan, stopping, read_topic, events_to=events_to, pace=pace, **told)
        gc.collect()
        gc.freeze()  # parsed events are garbage soon: spare the collector all that is imported

        def stop_run() -> None:
            stopping.wait()
            run.stop()

        threading.Thread(target=stop_run, name="stop", daemon=True).start()
        try:
            report = run.run()
            more = {name: getattr(report, name) + number for name, number in passed.items()}
            return replace(report, planned=report.planned + passed.total(), **more)
        finally:
            stopping.set()


def _not_yet(settings: Settings, plan: PlanFile) -> tuple[PlanFile, Counter[str]]:
    planned, newer, topic = {each.subject: each.version for each in plan}, dict[str, int](), plan.head.topic

    def take(record: ReadRecord) -> None:
        subject = (record.key or b"").decode(errors="replace")
        if subject in planned:
            gone = VERSION_MAX if record.value is None else None
            version = told_version(record.headers) or gone or version_in(record.value or b"") or 0
            newer[subject] = max(version, newer.get(subject, 0))

    ends = {Partition(topic, number): end for number, end in plan.head.ends.items()}
    read_topic(settings, topic, take, at=ends)
    passed = Counter[str]()
    for subject, version in newer.items():
        if version > planned[subject]:
            passed["earlier" if version == planned.pop(subject) + 1 else "overtaken"] += 1
    return plan.of_subjects(planned.keys()), passed


def _require_whole(settings: Settings, plan: PlanFile) -> None:
    """Raises Misconfigured: chosen records of the plan were carried out."""
    group, topics = group_of(plan.digest, chosen=True), [plan.head.topic]
    with group_watch(servers(settings), group, topics, security=security(settings)) as watch:
        if any(reach.committed is not None for reach in watch.look().partitions.values()):
            raise Misconfigured(
                f"{plan.path} was carried out in part with --only: go on with --only, or make a new plan of the rest"
            )


def _made(
    settings: Settings, plan: PlanFile, stopping: threading.Event, read: ReadTopic, *, events_to: str, **more: Any
) -> tuple[PlanRun, Counter[str]]:
    """The run with its clients, and the numbers of passed subjects."""
    topics, current = [settings.output_topic, events_to], current_settings(settings)
    group = group_of(plan.digest, chosen=plan.only is not None)
    require_topics(servers(settings), topics, security=security(settings))
    state = state_of(settings, topics[0])
    plan.require_fit(topics[0], state.id, state.partitions, current.parts)
    passed = Counter[str]()
    if plan.only is None:
        _require_whole(settings, plan)
    else:
        plan, passed = _not_yet(settings, plan)
    said = corrections_read(settings, stopping.is_set)
    source = record_source(settings, group, topics[:1])
    run = PlanRun(
        plan,
        Remaker(current, said, SystemClock()),
        read,
        source=source,
        publisher=own_publisher(settings, group, topics, source.membership),
        events_to=events_to,
        options=WorkerOptions.of(settings),
        clock=SystemClock(),
        **more,
    )
    return run, passed
