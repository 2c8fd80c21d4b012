"""`tagstream capacity`: sizes workers, topics, Redis and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from schemas.printable import counted
from workers.assembly.needs import worst_bytes
from workers.cli import terminal
from workers.cli.terminal import say
from workers.errors import LargerThanReserved, Misconfigured
from workers.files import read_regular_file

if TYPE_CHECKING:
    from workers.capacity import CapacityPlan, MachineProfile

GB, GIB = 10**9, 2**30


def capacity(
    images_a_day: Annotated[int, typer.Argument(min=1, max=10**12, help="Images on a usual day.")],
    profile: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="Cost of an image: a file of `tagstream bench -o`, or compact, ram-bf16, ram-fp32, tag2text-bf16, "
            "tag2text-fp32 as measured on processors.",
        ),
    ] = "ram-bf16",
    images_per_s: Annotated[
        float | None, typer.Option(min=0.01, max=1e6, help="Images a second of the model on a GPU.")
    ] = None,
    megapixels: Annotated[
        float | None,
        typer.Option(min=0.01, max=1000, help="Megapixels of an image. Default: 2, or the profile's mean."),
    ] = None,
    image_bytes: Annotated[
        int | None, typer.Option(min=1, max=10**10, help="Bytes of an image. Default: 300 kB a megapixel.")
    ] = None,
    peak: Annotated[
        float, typer.Option(min=1, max=24, help="Ratio of the busiest hour's rate to the day's mean.")
    ] = 3.0,
    known: Annotated[float, typer.Option(min=0, max=0.999, help="Share of images whose bytes were seen before.")] = 0.0,
    busy: Annotated[float, typer.Option(min=0.05, max=0.95, help="Utilisation of a worker in the busiest hour.")] = 0.7,
    cores: Annotated[int, typer.Option(min=1, max=512, help="Processors of one worker.")] = 8,
    processes: Annotated[
        int, typer.Option(min=1, max=999, help="Processes of one worker, as TAGSTREAM_WORKERS sets them.")
    ] = 1,
    cache_days: Annotated[int, typer.Option(min=1, max=3650, help="How long the cache keeps results.")] = 30,
    price: Annotated[
        float | None, typer.Option(min=0, max=1e6, help="Price of a worker for an hour, in any currency.")
    ] = None,
    caption_s: Annotated[
        float, typer.Option("--caption-s", min=0, max=3600, help="Seconds of a caption, if a service writes them.")
    ] = 0.0,
    caption_tokens: Annotated[
        int, typer.Option(min=0, max=10**7, help="Tokens of such a caption, with prompt and image.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, in bytes and seconds.")] = False,
) -> None:
    """Compute workers, partitions, memory, Redis, brokers and cost for images a day.

    docs/guide/sizing.md explains the arithmetic. The built-in figures are of one kind of machine: measure yours first.

    [dim]A million photos a day:[/]  tagstream capacity 1000000 --megapixels 12

    [dim]As measured here:[/]  tagstream bench -o here.json && tagstream capacity 1000000 --profile here.json

    [dim]On GPUs:[/]  tagstream capacity 1000000000 --images-per-s 280 --cores 16 --price 1.20
    """
    from workers.capacity import BUILT_IN, CapacityPlan, Demand

    measured = read_profile(profile)
    if images_per_s is not None:
        measured = on_a_gpu(measured, images_per_s)
    demand = Demand(
        images_a_day=images_a_day,
        megapixels=megapixels or (2.0 if profile in BUILT_IN else None),
        image_bytes=image_bytes,
        peak=peak,
        known=known,
        busy=busy,
        cores=cores,
        processes=processes,
        cache_days=cache_days,
        price=price,
        caption_s=caption_s,
        caption_tokens=caption_tokens,
    )
    case = Case(CapacityPlan(demand, measured))
    if as_json:
        typer.echo(terminal.as_json(case.document()))
        return
    rows = Table.grid(padding=(0, 2))
    for name, told in case.rows().items():
        rows.add_row(*map(terminal.text, (name.replace("*", ""), told)))
    terminal.console().print(rows)
    for line in case.advice():
        say(line)


def read_profile(name_or_file: str) -> MachineProfile:
    """A built-in profile, or the one in a file. Raises Misconfigured: the profile is missing or unreadable."""
    from workers.capacity import BUILT_IN, MOST_BYTES, parse_profile

    if name_or_file in BUILT_IN:
        return BUILT_IN[name_or_file]
    try:
        return parse_profile(read_regular_file(Path(name_or_file), MOST_BYTES))
    except OSError as error:
        known = ", ".join(BUILT_IN)
        raise Misconfigured(
            f"{name_or_file} is no built-in profile ({known}), and no readable file ({error.strerror}).  "
            "tagstream bench -o profile.json measures this machine."
        ) from None
    except LargerThanReserved:
        raise Misconfigured(f"{name_or_file} is too large for a profile: tagstream bench -o FILE writes one.") from None
    except ValueError as error:
        raise Misconfigured(f"{name_or_file} is no profile: {error}. tagstream bench -o FILE writes one.") from None


def on_a_gpu(profile: MachineProfile, images_per_s: float) -> MachineProfile:
    """The profile of the same model on a GPU of that speed.

    `images_per_s` is in batches of 32; one alone takes twice its share.
    """
    changed = {"device": "cuda", "single_s": 2 / images_per_s, "batch": 32, "batch_s": 32 / images_per_s}
    name = profile.name.partition(",")[0]
    return profile.model_copy(update=changed | {"device_cores": 1.0, "machine": "a GPU", "name": f"{name} on a GPU"})


@dataclass(frozen=True)
class Case:
    """A plan for people and programs."""

    plan: CapacityPlan

    @property
    def worker_bytes(self) -> int:
        """Memory of one worker with default budgets, as `tagstream check` computes it."""
        from workers.settings import Settings

        demand, profile = self.plan.demand, self.plan.profile
        settings = Settings(device=profile.device)
        return worst_bytes(settings, demand.cores, profile.weights_bytes, demand.processes)

    def rows(self) -> Mapping[str, str]:
        """The plan as rows; resources are bold in Markdown."""
        plan = self.plan
        demand = plan.demand
        copies = counted(demand.copies, "copy", "copies")
        kept = counted(demand.kept_days, "day")
        in_processes = f" in {demand.processes} processes" if demand.processes > 1 else ""
        told = {
            "images a day": f"{demand.images_a_day:,}",
            "model": plan.profile.name,
            "megapixels of an image": f"{plan.megapixels:g}",
            "seen before": f"{demand.known:.0%}",
            "**images a second, busiest hour**": _figure(plan.at_peak),
            "core seconds a new image": f"{plan.new_core_s:.3f}",
            "images a second of a worker, at most": f"{_figure(plan.rate)}, bounded by the {plan.bound}",
            "**workers**": f"{plan.workers:,} of {demand.cores} processors{in_processes}",
            "**partitions**": f"{plan.partitions:,}",
            "**memory of a worker, at worst**": f"{self.worker_bytes / GIB:.1f} GiB",
            "**from the store, busiest hour**": f"{plan.store_bytes_a_s / GB:.2f} GB/s",
            f"**Redis, {counted(demand.cache_days, 'day')}**": f"{plan.redis_bytes / GB:,.1f} GB",
            "Redis, commands a second": _figure(plan.redis_commands_a_s),
            f"**input topic on disk, {kept}**": f"{plan.input_bytes / GB:,.1f} GB in {copies}",
            "**output topic on disk, each day**": f"{plan.output_bytes_a_day / GB:,.1f} GB in {copies}",
            "brokers write, busiest hour": f"{plan.broker_bytes_a_s / 1e6:.1f} MB/s",
            "an outage of one hour is caught up in": f"{60 * plan.catch_up_h:.0f} min",
        }
        if demand.caption_s or demand.caption_tokens:
            told["**captions at once, busiest hour**"] = f"{plan.captions_at_once:,}"
            told["**tokens a day**"] = f"{plan.caption_tokens_a_day:,}"
        if plan.cost_a_day is not None:
            told["**workers' cost a day**"] = f"{plan.cost_a_day:,.2f}"
        return told

    def advice(self) -> Sequence[str]:
        """Sentences on what to do."""
        plan = self.plan
        lines = [f"lagThreshold of the autoscaler: {plan.lag_threshold} (what a worker does in a minute)."]
        if plan.bound == "processors" and plan.profile.device == "cuda":
            lines.append("The GPU waits for decoders: give a worker more processors (--cores).")
        if plan.redis_bytes > 1000 * GB:
            lines.append(
                "Redis: fewer days (TAGSTREAM_CACHE_TTL_S, --cache-days), or less memory than this with allkeys-lru; "
                "what it forgets is computed again."
            )
        if plan.bound == "interpreter":
            lines.append(
                "A process's one interpreter bounds it: more processes in each worker (TAGSTREAM_WORKERS, --processes) "
                "gain, more processors alone do not."
            )
        if (requests := -(-plan.captions_at_once // (plan.workers * plan.demand.processes))) > 4:
            lines.append(f"`requests` in TAGSTREAM_CAPTION_FILE: {requests}, if the service bears it.")
        if plan.demand.processes > 1:
            most = plan.partitions // plan.demand.processes
            lines.append(f"maxReplicaCount of the autoscaler: at most {most}, a partition for each process.")
        return lines

    def document(self) -> Mapping[str, Any]:
        plan = self.plan
        return {
            "images_a_day": plan.demand.images_a_day,
            "profile": plan.profile.name,
            "images_per_s_at_peak": plan.at_peak,
            "core_s": plan.core_s,
            "worker_images_per_s": plan.rate,
            "bound": plan.bound,
            "workers": plan.workers,
            "cores": plan.demand.cores,
            "processes": plan.demand.processes,
            "partitions": plan.partitions,
            "lag_threshold": plan.lag_threshold,
            "worker_bytes": self.worker_bytes,
            "store_bytes_per_s": plan.store_bytes_a_s,
            "redis_bytes": plan.redis_bytes,
            "redis_commands_per_s": plan.redis_commands_a_s,
            "input_topic_bytes": plan.input_bytes,
            "output_topic_bytes_a_day": plan.output_bytes_a_day,
            "broker_bytes_per_s": plan.broker_bytes_a_s,
            "catch_up_s": 3600 * plan.catch_up_h,
            "captions_at_once": plan.captions_at_once,
            "caption_tokens_a_day": plan.caption_tokens_a_day,
            "cost_a_day": plan.cost_a_day,
        }


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
