"""Draws the pictures of docs/ as SVG, each into docs/NAME.svg: `scripts/draw.py`. A test compares them."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; text-anchor: middle }
  .small { font-size: 11px; fill: #59636e }
  .left { text-anchor: start }
  rect { fill: #f6f8fa; stroke: #59636e; rx: 6px }
  .done { fill: #dafbe1 } .soon { stroke-dasharray: 4 3 }
  path { fill: none; stroke: #59636e }
  .arrow { marker-end: url(#tip) }
  #tip path { fill: #59636e; stroke: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .small { fill: #9198a1 } rect { fill: #151b23; stroke: #9198a1 } .done { fill: #0f3d20 }
    path { stroke: #9198a1 } #tip path { fill: #9198a1 }
  }
"""
TIP = (
    '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 8 4 0 8z"/></marker>'
)


class Picture:
    """An SVG document that follows the reader's light or dark scheme. Sizes are pixels, y goes down.

    Args:
        label: what it shows, for those who can't see it.
    """

    def __init__(self, width: int, height: int, label: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" {_label(label)}>',
            f"<style>{STYLE}</style>",
            TIP,
        ]

    def box(self, x: int, y: int, width: int, height: int, *lines: str, kind: str = "") -> None:
        """A box with lines of text in its middle: the first one large, the others small."""
        self._parts.append(f'<rect{_class(kind)} x="{x}" y="{y}" width="{width}" height="{height}"/>')
        first = y + height // 2 + 5 - 8 * (len(lines) - 1)
        for number, line in enumerate(lines):
            self.text(x + width // 2, first + 17 * number, line, kind="small" if number else "")

    def text(self, x: int, y: int, text: str, kind: str = "") -> None:
        self._parts.append(f'<text{_class(kind)} x="{x}" y="{y}">{escape(text)}</text>')

    def notes(self, x: int, y: int, *lines: str) -> None:
        """Small lines, one below the other."""
        for number, line in enumerate(lines):
            self.text(x, y + 15 * number, line, kind="small")

    def arrow(self, path: str) -> None:
        """An arrow along a path in SVG's own words, such as `M10 10v20`."""
        self._parts.append(f'<path class="arrow" d="{path}"/>')

    def line(self, path: str, kind: str = "") -> None:
        self._parts.append(f'<path{_class(kind)} d="{path}"/>')

    def svg(self) -> str:
        return "\n".join([*self._parts, "</svg>"]) + "\n"


def _label(label: str) -> str:
    return f'aria-label="{escape(label)}"'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def pipeline() -> Picture:
    """Step and thread, from left to right and row by row."""
    rows = (
        (
            ("poll", "poll"),
            ("parse", "parse"),
            ("lookup by source", "lookup"),
            ("fetch", "intake"),
            ("lookup verdicts", "lookup"),
        ),
        (
            ("inspect", "intake"),
            ("lookup by content", "lookup"),
            ("decode", "intake"),
            ("annotate", "device"),
            ("finish", "finish"),
        ),
        (("ledger", "one lock"), ("publish", "publish")),
    )
    picture = Picture(832, 320, "The steps of the pipeline from poll to publish, and their threads")
    picture.text(88, 18, "Kafka: image events")
    picture.arrow("M88 24V42")
    for row, steps in enumerate(rows):
        y = 44 + 92 * row
        for column, (step, thread) in enumerate(steps):
            x = 20 + 164 * column
            picture.box(x, y, 136, 48, step, thread)
            if column:
                picture.arrow(f"M{x - 26} {y + 24}h24")
        if row:
            picture.arrow(f"M744 {y - 42}v20H88v20")
    picture.arrow("M252 278v16")
    picture.text(252, 310, "Kafka: enriched events")
    return picture


def event() -> Picture:
    """What becomes of one event, from its record to its outcome."""
    steps = (
        ("parse", "retraction,", "skip, or dead", "letter: no event"),
        ("fetch", "skip: gone", "dead letter:", "too large, refused"),
        ("inspect", "dead letter:", "no image, too", "many pixels"),
        ("decode", "dead letter:", "broken, kills", "its decoder"),
        ("annotate", "dead letter:", "the model fails", "on it alone"),
        ("finish", "enriched image", "tags, caption,", "what made them"),
    )
    picture = Picture(
        832, 352, "The life of an event: six steps, each with the outcome in which an event may end there"
    )
    for column, (step, *ends) in enumerate(steps):
        x = 20 + 136 * column
        picture.box(x, 84, 112, 40, step)
        picture.arrow(f"M{x + 56} 124v26")
        picture.box(x, 152, 112, 64, kind="done" if step == "finish" else "soon")
        picture.notes(x + 56, 171, *ends)
        picture.arrow(f"M{x + 56} 216v26")
        if column:
            picture.arrow(f"M{x - 22} 104h20")
    picture.text(20, 24, "seen before, by version or etag: no download and no model", kind="small left")
    picture.arrow("M76 84V32H768V82")
    picture.text(292, 50, "seen before, by its bytes: no model", kind="small left")
    picture.arrow("M348 84V58H744V82")
    picture.box(20, 244, 792, 34, "the ledger: outcomes wait until all before them in their partition are done")
    picture.arrow("M416 278v24")
    picture.box(20, 304, 792, 34, "one Kafka transaction: outcomes and offsets, all of it or nothing")
    return picture


def delivery() -> Picture:
    """Work out of order, publish in order."""
    records = (
        (40, "done", "done"),
        (41, "done", "done"),
        (42, "done", "done"),
        (43, "on the device", ""),
        (44, "done: waits", "done"),
        (45, "done: waits", "done"),
        (46, "decoded", ""),
        (47, "fetched", ""),
        (48, "not read yet", "soon"),
    )
    picture = Picture(832, 288, "A partition's records: the first three are done and leave in one transaction")
    picture.text(20, 20, "one partition of images, by offset; the committed offset is 40", kind="left")
    for column, (offset, state, kind) in enumerate(records):
        picture.box(20 + 88 * column, 34, 80, 44, str(offset), state, kind=kind)
    picture.line("M20 88v8H276v-8")
    picture.arrow("M148 96v30")
    picture.box(20, 128, 256, 52, "one transaction", "outcomes of 40, 41, 42, and the offset 43")
    picture.notes(556, 104, "44 and 45 are finished, and wait for 43:", "outcomes leave in the order of their records")
    picture.arrow("M80 180v40")
    picture.arrow("M216 180v40")
    picture.box(20, 222, 120, 44, "outputs", "three messages")
    picture.box(156, 222, 120, 44, "offsets", "43 for the group")
    picture.text(312, 150, "killed before the commit: nothing happened, the next worker begins at 40", kind="left")
    picture.text(312, 176, "killed after it: all of it happened, the next worker begins at 43", kind="left")
    picture.text(312, 202, "no answer came: the worker asks the broker which of the two it was", kind="left")
    picture.text(312, 250, "A reader with isolation.level=read_committed sees nothing in between.", kind="left")
    return picture


def partitions() -> Picture:
    """A key chooses the partition, a partition has one worker, and order is kept within it."""
    picture = Picture(832, 290, "Three partitions that two workers read, and the output topic that they write")
    picture.text(130, 20, "images: three partitions")
    picture.text(416, 20, "one consumer group")
    picture.text(700, 20, "images.enriched")
    events = (
        ("a.jpg made, a.jpg removed", "same key, same partition: in order"),
        ("b.jpg made, c.jpg made", "other keys may share it"),
        ("d.jpg made", "no order between partitions"),
    )
    for number, (what, note) in enumerate(events):
        picture.box(20, 36 + 80 * number, 240, 56, f"{number}: {what}", note)
    picture.box(350, 76, 132, 56, "worker A", "reads 0 and 1")
    picture.box(350, 196, 132, 56, "worker B", "reads 2")
    picture.box(
        580, 36, 232, 216, "keyed bucket/key", "outcomes of one input partition", "come in the order of its records"
    )
    picture.arrow("M260 64h40v30h48")
    picture.arrow("M260 144h40v-30h48")
    picture.arrow("M260 224h88")
    picture.arrow("M482 104h96")
    picture.arrow("M482 224h96")
    picture.text(416, 280, "A third worker would get a partition, a fourth would have none.", kind="small")
    return picture


def batches() -> Picture:
    """An idle device takes what is there; while it is busy the next batch grows."""
    picture = Picture(
        832, 200, "A timeline: batches of one, three, six and five images, as many as were ready each time"
    )
    picture.text(20, 52, "images", kind="left")
    picture.text(20, 70, "become ready", kind="small left")
    for x in (130, 180, 200, 226, *range(270, 430, 21), 470, 520, 600):
        picture.box(x, 44, 14, 24)
    picture.text(20, 132, "the device", kind="left")
    picture.box(144, 104, 96, 44, "1", "at once", kind="done")
    picture.box(244, 104, 136, 44, "3", "came meanwhile", kind="done")
    picture.box(384, 104, 230, 44, "6", "came meanwhile", kind="done")
    picture.box(618, 104, 176, 44, "5", "came meanwhile", kind="done")
    picture.arrow("M110 176H800")
    picture.text(416, 194, "time: there is no timer to tune, and no image waits for others to come", kind="small")
    return picture


def budgets() -> Picture:
    """Half of a budget is divided among the partitions, the other half is a pool."""
    picture = Picture(
        832, 190, "A budget of bytes: one half in equal shares of the partitions, one half a pool for all"
    )
    picture.text(20, 20, "TAGSTREAM_ENCODED_BYTES, with four partitions", kind="left")
    for number in range(4):
        picture.box(20 + 99 * number, 34, 95, 48, f"partition {number}", "its own share")
    picture.box(416, 34, 396, 48, "the pool", "for all; an image larger than it has it alone")
    picture.text(
        20, 108, "A partition whose first image hangs keeps its share and what it holds: the others go on.", kind="left"
    )
    picture.box(20, 126, 180, 44, "reserve", "the event's size, or 20 MiB")
    picture.arrow("M200 148h24")
    picture.box(226, 126, 180, 44, "GET", "no byte beyond it is read")
    picture.arrow("M406 148h24")
    picture.box(432, 126, 180, 44, "shrink", "to the size that came")
    picture.arrow("M612 148h24")
    picture.box(638, 126, 174, 44, "give back", "when it is decoded")
    return picture


CACHED_US = {
    "before": {"finish": 108, "lookup": 90, "publish": 65, "parse": 51, "producer": 39, "poll": 28, "other": 18},
    "now": {"finish": 71, "lookup": 39, "publish": 24, "parse": 48, "producer": 23, "poll": 21, "other": 8},
}
"""Microseconds of processor time that a cached event takes in each thread (docs/performance.md)."""


LATENCY_MS = {
    "at_least_once": {"fetch": 1.5, "parse": 0.4, "look-up": 1.5, "finish": 0.4, "messages": 2.1, "reader": 0.1},
    "exactly_once": {
        "fetch": 1.8, "parse": 0.5, "look-up": 2.0, "finish": 0.4, "messages": 3.4, "offsets": 2.8, "end": 1.5,
        "reader": 2.4,
    },
}  # fmt: skip
"""Milliseconds of the median single event in each step (docs/performance.md)."""

PHOTO_MS = {
    "bare loop": {"GET, decode, model": 20.7, "store": 4.0},
    "worker": {"model": 10.0, "decoder": 5.0, "Python": 6.4, "Kafka": 3.5, "store": 4.0},
}
"""Milliseconds of processor time that a new photo takes, of the servers' too (docs/performance.md)."""


def cached() -> Picture:
    """The threads' shares of a cached event, one bar before the work on it and one after."""
    return bars(
        "Processor time of a cached event by thread: 399 microseconds before, 234 now",
        CACHED_US,
        scale=1.65,
        unit="us",
        order="finish, lookup, publish, parse, the producer's own thread, poll, all others",
    )


def latency() -> Picture:
    """The steps of a single event, one bar for each delivery."""
    return bars(
        "A single event's milliseconds by step: 6 under at_least_once, 15 under exactly_once",
        LATENCY_MS,
        scale=40,
        unit="ms",
        order="fetch, parse, look-up, finish, messages, offsets, the end told, marker and reader",
    )


def photo() -> Picture:
    """What a new photo takes, beside a loop that only gets, decodes and tags it."""
    return bars(
        "Processor time of a new photo: 25 milliseconds in the bare loop, 29 in the worker",
        PHOTO_MS,
        scale=20,
        unit="ms",
        order="the worker's model, decoders and Python, then the servers'",
    )


def bars(label: str, rows: Mapping[str, Mapping[str, float]], *, scale: float, unit: str, order: str) -> Picture:
    """One bar for each row, of its parts one after the other.

    Args:
        scale: pixels of one unit.
        order: what the parts are, for those too small to hold their name.
    """
    picture = Picture(832, 150, label)
    left = 80 if max(map(len, rows)) < 8 else 120
    for row, (name, parts) in enumerate(rows.items()):
        x, y = left, 12 + 62 * row
        picture.text(20, y + 29, name, kind="left")
        for part, value in parts.items():
            width = round(scale * value)
            text = () if width < 12 else (f"{value:g}",)
            picture.box(x, y, width - 2, 48, *((part, *text) if width > max(50, 7.5 * len(part)) else text))
            x += width
        picture.text(x + 6, y + 29, f"{sum(parts.values()):.0f} {unit}", kind="left")
    picture.text(left, 142, f"in this order: {order}", kind="small left")
    return picture


class Panel:
    """One of the curves over time that lie below each other: an axis, and values as an area or a line.

    Args:
        top: its y.
        name: what it shows.
        times: in seconds, of every value.
        most: the value at its upper edge.
    """

    LEFT, WIDTH, HEIGHT = 80, 740, 84

    def __init__(self, picture: Picture, top: int, name: str, times: Sequence[float], most: float) -> None:
        self._picture, self._times, self._most = picture, times, most
        self._floor = top + self.HEIGHT
        picture.text(8, top - 8, name, kind="left")
        for value in (0, most / 2, most):
            picture.text(self.LEFT - 24, round(self._y(value)) + 4, f"{value:,g}", kind="small")
            picture.line(f"M{self.LEFT - 5} {self._y(value):g}h5")
        picture.line(f"M{self.LEFT} {top}v{self.HEIGHT}h{self.WIDTH}")

    def _x(self, seconds: float) -> float:
        return round(self.LEFT + self.WIDTH * seconds / self._times[-1], 1)

    def _y(self, value: float) -> float:
        return round(self._floor - self.HEIGHT * value / self._most, 1)

    def area(self, values: Sequence[float]) -> None:
        points = " ".join(f"{self._x(at):g} {self._y(value):g}" for at, value in zip(self._times, values, strict=True))
        self._picture.line(f"M{self._x(self._times[0]):g} {self._floor}L{points}V{self._floor}z", kind="done")

    def steps(self, values: Sequence[float], kind: str) -> None:
        """Each value from its time to the next one's."""
        path = f"M{self._x(self._times[0]):g} {self._y(values[0]):g}"
        for at, value in list(zip(self._times, values, strict=True))[1:]:
            path += f"H{self._x(at):g}V{self._y(value):g}"
        if kind == "done":
            path += f"V{self._floor}H{self._x(self._times[0]):g}z"
        self._picture.line(path, kind=kind)


def autoscaling() -> Picture:
    """Lag, rate and workers over time, as `make kube` has seen them."""
    with (DOCS / "autoscaling.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    seen = {name: [row[name] for row in rows] for name in rows[0]}
    times = seen["at_s"]
    picture = Picture(832, 420, "Lag rises, workers become three, the lag is done, and one worker is left")
    Panel(picture, 28, "lag, events", times, _above(max(seen["lag"]))).area(seen["lag"])
    Panel(picture, 156, "images a second", times, _above(max(seen["rate"]))).area(seen["rate"])
    workers = Panel(picture, 284, "workers: ready, and asked for (dashed)", times, 4)
    workers.steps(seen["ready"], "done")
    workers.steps(seen["wanted"], "soon")
    for seconds in range(0, int(times[-1]) + 1, 20):
        picture.text(round(Panel.LEFT + Panel.WIDTH * seconds / times[-1]), 386, f"{seconds}", kind="small")
    picture.text(Panel.LEFT + Panel.WIDTH // 2, 406, "seconds", kind="small")
    return picture


def _above(value: float) -> float:
    """The next round number: 20, 40, 60, 80, 100, 200, …"""
    step = 2 * 10 ** math.floor(math.log10(value))
    return step * math.ceil(value / step)


PICTURES: dict[str, Callable[[], Picture]] = {
    "pipeline": pipeline,
    "concepts-event": event,
    "concepts-delivery": delivery,
    "concepts-partitions": partitions,
    "concepts-batches": batches,
    "concepts-budgets": budgets,
    "performance-cached": cached,
    "performance-latency": latency,
    "performance-photo": photo,
    "autoscaling": autoscaling,
}
"""By the name of the file."""


def main() -> None:
    for name, draw in PICTURES.items():
        (DOCS / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
