"""Figures in docs/guide/deploying.md, and in linked pages, equal those of the files and of the code."""

import re
from collections.abc import Sequence

import pytest
import yaml

from tests.unit.deploy.tools import ROOT, Manifest, documented, overlay, settings_of, the
from workers import environment, errors
from workers.assembly import topics
from workers.cli.topics import PARTITIONS
from workers.service.http import ProbeServer

pytestmark = pytest.mark.slow

GIB = 2**30


def passages() -> list[str]:
    """Each row of a table, item of a list and paragraph of the page, on one line."""
    text = re.sub(r"\n(?=[-|*#] ?)", "\n\n", documented())
    return [" ".join(passage.split()) for passage in text.split("\n\n")]


def test_the_port_of_probes_bounds_its_clients_and_exit_codes_are_as_the_pages_on_them_say() -> None:
    security, trouble = (
        (ROOT / page).read_text() for page in ("docs/design/security.md", "docs/guide/troubleshooting.md")
    )
    (row,) = re.findall(r"^\| \*\*who reaches the port of probes\*\* .*$", security, re.MULTILINE)
    assert {f"{ProbeServer.seconds:.0f}", f"{ProbeServer.connections}"} <= set(re.findall(r"\d+", row))
    named = [int(code) for code in re.findall(r"^\| (\d+) \| ", trouble, re.MULTILINE)]
    own = [errors.DONE, errors.OUR_BUG, errors.MISCONFIGURED, errors.BROKEN, errors.UNAVAILABLE]
    assert named == [*own, errors.INTERRUPTED]


def test_the_table_of_topics_has_the_settings_that_our_command_sets() -> None:
    page = (ROOT / "docs" / "guide" / "operating.md").read_text()
    rows = re.findall(
        r"^\| (?:input|output|dead letters|skipped) \| (`--partitions`|1) \| (.*?) \|", page, re.MULTILINE
    )
    listed = [
        (PARTITIONS if partitions != "1" else 1, dict(re.findall(r"`([a-z.]+)=(\S+)`", configs)))
        for partitions, configs in rows
    ]
    own = settings_of(overlay("cpu"))
    wanted = topics.wanted_topics(environment.read({name: own[name] for name in own if not name.endswith("_FILE")}))
    assert listed == [(topic.partitions(PARTITIONS), topic.settings(1)) for topic in wanted]
    copies = topics.REPLICATION_MAX
    together = (f"{copies} replicas", f"`min.insync.replicas={wanted[0].settings(copies)['min.insync.replicas']}`")
    assert any(all(part in passage for part in together) for passage in passages())


def claims() -> Sequence[Manifest]:
    blocks = re.findall(r"```yaml\n(.*?)```", documented(), re.DOTALL)
    return [
        each for block in blocks for each in yaml.safe_load_all(block) if each.get("kind") == "PersistentVolumeClaim"
    ]


def test_the_documented_claim_is_mounted_and_holds_the_jobs_bundles() -> None:
    (claim,) = claims()
    job = the(overlay("cpu", "bundles-job"), "Job")["spec"]["template"]["spec"]
    (mounted,) = [each["persistentVolumeClaim"] for each in job["volumes"] if "persistentVolumeClaim" in each]
    assert (claim["metadata"]["name"], claim["metadata"]["namespace"]) == (mounted["claimName"], "tagstream")
    page = (ROOT / "docs" / "guide" / "models.md").read_text()
    made = [float(each) * 1e9 for each in re.findall(r"\| (0\.\d+) GB in bf16", page)]
    assert len(made) == 3
    assert int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) * GIB > sum(made)
