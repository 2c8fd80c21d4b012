"""The table of faults matches the code, and the pages are made of it."""

import ast
import re
from functools import cache

import pytest
import yaml

from schemas.dead_letter import REASONS, REASONS_OF
from scripts.list_faults import AREAS, ROOT, faults, pages
from workers import metrics

FAULTS = faults()
RULES = ROOT / "deploy" / "monitoring" / "rules" / "tagstream.yaml"
NAMED = re.compile(r'(?:Rejected\(|stage=|stage: Stage = )"([a-z]+)",?\s+(?:reason=|reason: Reason = )?"([a-z-]+)"')
LEVELS = {"warning", "error", "critical", "exception"}
APART = ("training", "local", "testing", "cli/train", "cli/demo.py")
"""Programs other than the worker and its commands: their lines are explained elsewhere."""
_PLACEHOLDERS = re.compile(r"%[.\d]*[srdgf]|\{[^{}]*\}")


def test_the_pages_equal_the_tables_output() -> None:
    """`scripts/list_faults.py` repairs this."""
    assert [path.name for path, text in pages().items() if path.read_text(encoding="utf-8") != text] == []


def test_every_fault_stands_on_some_page() -> None:
    rows = [line for text in pages().values() for line in text.splitlines() if line.startswith("| ")]
    shown = {_plain(cell) for row in rows for cell in row.split(" | ")}
    assert [fault.what for fault in FAULTS if not any(_plain(fault.what) in cell for cell in shown)] == []
    assert [fault.what for fault in FAULTS if fault.area not in ("", *AREAS)] == []


def _plain(text: str) -> str:
    return re.sub(r"\]\([^)]*\)", "]", text.replace("\\|", "|")).strip("| ")


def test_every_reason_is_of_one_fault() -> None:
    assert sorted(reason for fault in FAULTS for reason in fault.reasons) == sorted(REASONS)


def test_the_worker_names_each_reason_with_its_own_stage() -> None:
    """A failure counted under another stage would lack its zero."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "workers").rglob("*.py"))
    named = set(NAMED.findall(sources))
    assert len(named) > 15
    assert named <= {(stage, reason) for stage, reasons in REASONS_OF.items() for reason in reasons}


def test_every_metric_of_a_fault_exists() -> None:
    known = {metric.name.removeprefix("tagstream_"): metric for metric in metrics.ALL}
    for fault in FAULTS:
        for name, labels in re.findall(r"`([a-z_]+)(?:\{([^}]*)\})?`?", fault.metric):
            if name.removesuffix("_total") not in known:
                pytest.fail(f"{fault.what}: no metric {name}")
            named = set(re.findall(r"(\w+)=?~?", re.sub('"[^"]*"', "", labels)))
            assert named <= set(known[name.removesuffix("_total")].exposed_labels), fault.what
    assert sum(bool(fault.metric) for fault in FAULTS) > 30


def test_every_alert_has_a_cause_and_every_cause_an_alert() -> None:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert {alert for fault in FAULTS for alert in fault.alerts} == alerts


def quoted() -> list[str]:
    return [line for fault in FAULTS for line in fault.lines()]


@cache
def nodes() -> list[ast.AST]:
    paths = sorted((ROOT / "workers").rglob("*.py"))
    named = [path for path in paths if not path.relative_to(ROOT / "workers").as_posix().startswith(APART)]
    named += sorted((ROOT / "index" / "tagstream_index").rglob("*.py"))
    return [node for path in named for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


def template(node: ast.AST) -> str | None:
    """A text of the source with `…` for each part that is known only at run time; None: no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _PLACEHOLDERS.sub("…", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


@cache
def texts() -> frozenset[str]:
    return frozenset(text for node in nodes() if (text := template(node)) is not None)


@cache
def warnings() -> frozenset[str]:
    calls = (node for node in nodes() if isinstance(node, ast.Call) and node.args)
    at_level = (call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in LEVELS)
    of_a_log = (call for call in at_level if ast.unparse(call.func).startswith(("_log.", "logger.")))
    texts = frozenset(text for call in of_a_log if (text := template(call.args[0])) is not None)
    return texts - {"…"}  # an error's own sentence, which is explained by exit code


def says(quote: str, text: str) -> bool:
    """Whether the parts of a quoted line stand in the text in their order."""
    at = 0
    for part in quote.split("…"):
        found = text.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return True


@pytest.mark.slow
def test_every_quoted_line_is_written_by_the_program() -> None:
    assert [line for line in quoted() if not any(says(line, text) for text in texts())] == []
    assert len(quoted()) > 60


@pytest.mark.slow  # it reads all sources
def test_every_warning_of_the_log_is_explained() -> None:
    assert sorted(text for text in warnings() if not any(says(line, text) for line in quoted())) == []
    assert len(warnings()) > 30
