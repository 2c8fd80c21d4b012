"""A real Prometheus with the project's alerts watches real workers, with time running faster."""

import ast
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from tagstream_testing.local.worker_process import WorkerProcess
from tests.support.prometheus import Prometheus
from tests.support.waiting import eventually, meanwhile
from tests.support.worker_process import Site, photo

RULES = Path(__file__).resolve().parents[2] / "deploy" / "monitoring" / "rules" / "tagstream.yaml"
FIRES_WITHIN_S = 300


def place(process: WorkerProcess) -> str:
    return urlsplit(process.url).netloc


def firing(prometheus: Prometheus, job: str = "") -> set[str]:
    return {name for name, state in prometheus.states(job).items() if state == "firing"}


def assert_fires(prometheus: Prometheus, *alerts: str, job: str = "") -> None:
    seen: set[str] = set()

    def all_seen() -> bool:
        seen.update(firing(prometheus, job))
        return seen >= set(alerts)

    eventually(all_seen, FIRES_WITHIN_S, lambda: f"{prometheus.states()}, and so far {seen}")


def assert_over(prometheus: Prometheus, *alerts: str, job: str = "") -> None:
    eventually(lambda: not firing(prometheus, job) & set(alerts), FIRES_WITHIN_S, lambda: f"{prometheus.states()}")


def send(site: Site, numbers: Iterable[int]) -> None:
    keys = []
    for number in numbers:
        keys.append(f"{number}.jpg")
        site.upload(keys[-1], photo(number))
    site.send([(site.own(key), ()) for key in keys])


@contextmanager
def traffic(site: Site, numbers: range) -> Iterator[None]:
    """While the body runs, send a new image each 0.3 s, as long as there are numbers."""
    left = iter(numbers)
    with meanwhile(lambda: send(site, islice(left, 1)), 0.3):
        yield


def made_to_fire(folder: Path) -> set[str]:
    """The alerts that a test of this folder waits for with `assert_fires`."""
    calls = (node for path in folder.glob("test_*.py") for node in ast.walk(ast.parse(path.read_text())))
    return {
        argument.value
        for call in calls
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "assert_fires"
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }
