"""Figures in docs/guide/deploying.md, and in linked pages, equal those of the files and of the code."""

import io
import re
import struct
from collections.abc import Sequence

import pytest
import yaml
from PIL import Image

from tests.unit.deploy.test_keda import scaled
from tests.unit.deploy.test_kubernetes import OLDEST_KUBERNETES
from tests.unit.deploy.tools import (
    ROOT,
    Manifest,
    compose,
    documented,
    overlay,
    pod_environment,
    pod_of,
    settings_of,
    the,
    worker_of,
)
from workers import environment, errors, settings
from workers.assembly import needs, topics
from workers.backends import renewal
from workers.capacity import BUILT_IN
from workers.cli.topics import PARTITIONS
from workers.intake import header
from workers.intake.limits import Limits
from workers.service import logs
from workers.service.http import ConnectionLimits

pytestmark = pytest.mark.slow

GIB = 2**30
UNSET = settings.Settings()


def passages() -> list[str]:
    """Each row of a table, item of a list and paragraph of the page, on one line."""
    text = re.sub(r"\n(?=[-|*#] ?)", "\n\n", documented())
    return [" ".join(passage.split()) for passage in text.split("\n\n")]


def said_together() -> list[tuple[str, ...]]:
    """Words that one passage has to name together: a thing and its figure, from a file or from the code."""
    (cuda,) = set(re.findall(r"^nvidia-.*-cu(\d+)==", (ROOT / "requirements-torch.lock").read_text(), re.MULTILINE))
    assert (int(settings_of(overlay("cpu"))["TAGSTREAM_DRAIN_S"]), renewal.RENEWED_AFTER) == (UNSET.drain_s, 4 / 5)
    traces = float(pod_environment(overlay("cpu", "otlp"), {})["OTEL_TRACES_SAMPLER_ARG"])
    job = the(overlay("cpu", "bundles-job"), "Job")["spec"]
    down = scaled()["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    (policy,), most = down["policies"], scaled()["maxReplicaCount"]
    assert (policy["type"], policy["value"]) == ("Percent", 50)
    formula = scaled("measured-rate")["advanced"]["scalingModifiers"]["formula"]
    ((least_rate, wait),) = re.findall(r"max\(rate, (\d+)\) \* (\d+) >= lag", formula)
    backfill = overlay("cpu", "backfill")
    pods = the(backfill, "ResourceQuota")["spec"]["hard"]["pods"]
    surges = [
        the(overlay(base), "Deployment")["spec"]["strategy"]["rollingUpdate"]["maxSurge"] for base in ("cpu", "gpu")
    ]
    return [
        ("user", f"{pod_of(overlay('cpu'))['securityContext']['runAsUser']}"),
        ("kustomize", f"Kubernetes {OLDEST_KUBERNETES}"),
        ("`cuda`", f"CUDA {cuda}"),
        ("`fixed-size`", f"{the(overlay('cpu', 'fixed-size'), 'Deployment')['spec']['replicas']} workers"),
        ("`otlp`", f"{100 * traces:g} %"),
        (f"`TAGSTREAM_DRAIN_S` ({UNSET.drain_s:.0f} s)",),
        (f"`terminationGracePeriodSeconds` ({pod_of(overlay('cpu'))['terminationGracePeriodSeconds']} s)",),
        ("`TAGSTREAM_KAFKA_SESSION_TIMEOUT_S`", f"({UNSET.kafka_transaction_timeout_s:.0f} s in all)"),
        (f"{logs.LINES_A_MINUTE} lines a minute",),
        ("4/5 of their life",),
        (f"--timeout={job['activeDeadlineSeconds'] // 3600}h job/tagstream-bundles",),
        ("`measured-rate`", f"divide {most}", f"{wait} s", f"{least_rate} images/s"),
        (f"after {down['stabilizationWindowSeconds'] // 60} minutes", f"every {policy['periodSeconds'] // 60} minutes"),
        (f"{most}, {most // 2}, {most // 4}, {scaled()['minReplicaCount']}",),
        ("`fallback`", {2: "two"}[scaled()["fallback"]["replicas"]]),
        ("PriorityClass `tagstream-backfill`", f"{the(backfill, 'PriorityClass')['value']}"),
        (
            "ResourceQuota",
            f"{pods} workers",
            f"{the(backfill, 'ScaledObject')['spec']['cooldownPeriod'] // 60} minutes",
        ),
        ("rollout", *(f"maxSurge: {surge}" for surge in surges)),
        ("`/livez`", f"exits with {errors.BROKEN}"),
        ("`/bundles/ram-plus`", f"exit with {errors.MISCONFIGURED}"),
        ("corrections", f"1/{UNSET.memory // UNSET.corrections_bytes} × `TAGSTREAM_MEMORY`"),
        ("decoder", f"{needs.DECODER_BYTES // needs.MIB} MiB × `TAGSTREAM_DECODE_THREADS`"),
        ("program", f"{needs.PROGRAM_BYTES // needs.MIB} MiB"),
    ]


def test_each_figure_equals_the_files_and_the_code() -> None:
    for parts in said_together():
        whole = [re.compile(rf"(?<![\w.]){re.escape(part)}(?!\w|\.\d)") for part in parts]
        assert any(all(part.search(passage) for part in whole) for passage in passages()), parts
    most = scaled()["maxReplicaCount"]
    assert [int(each) for each in re.findall(r"topics create --partitions (\d+)", documented())] == [most, most]
    ((threshold, rate, wait),) = re.findall(r'lagThreshold, value: "(\d+)"} +# (\d+) images/s × (\d+) s', documented())
    assert int(threshold) == int(rate) * int(wait)


def test_the_port_of_probes_bounds_its_clients_and_exit_codes_are_as_the_pages_on_them_say() -> None:
    limits = ConnectionLimits()
    security, trouble = (
        (ROOT / page).read_text() for page in ("docs/design/security.md", "docs/guide/troubleshooting.md")
    )
    (row,) = re.findall(r"^\| \*\*who reaches the port of probes\*\* .*$", security, re.MULTILINE)
    assert {f"{limits.seconds:.0f}", f"{limits.connections}"} <= set(re.findall(r"\d+", row))
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


def test_addresses_are_the_ports_of_the_compose_files() -> None:
    services = compose("cpu", observed=True)["services"].values()
    ports = {(port.get("host_ip"), port.get("published")) for each in services for port in each.get("ports", ())}
    named = set(re.findall(r"(127\.0\.0\.1):(\d+)", documented()))
    assert len(named) == 6
    assert named <= ports


def image(kind: str, marker: bytes, width: int, height: int) -> bytes:
    """A file with this size in its header, without pixels. Of a progressive JPEG a decoder holds all coefficients."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, kind, progressive=True, subsampling=0)
    body = bytearray(file.getvalue())
    size = struct.pack(">HH", height, width) if kind == "JPEG" else struct.pack("<HH", width, height)
    at = body.index(marker) + (5 if kind == "JPEG" else 3)
    body[at : at + 4] = size
    return bytes(body)


def test_the_decode_memory_of_the_files_holds_the_images_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (said,) = [passage for passage in passages() if "progressive JPEG" in passage]
    gib, jpeg, webp, rejected = map(int, re.findall(r"\b(\d+)(?: GiB| megapixels|\. By)", said))
    assert settings_of(overlay("cpu"))["TAGSTREAM_MEMORY"] == f"{gib}GiB"
    assert rejected * 10**6 == UNSET.max_pixels
    limits = Limits(max_pixels=10**9, decode_bytes=10**12)
    for kind, marker, megapixels in (("JPEG", b"\xff\xc2", jpeg), ("WEBP", b"\x9d\x01\x2a", webp)):
        needed = [
            header.read_header(image(kind, marker, 10_000, size * 100), limits).decode_bytes
            for size in (megapixels, megapixels * 3 // 2)
        ]
        assert needed[0] <= gib * GIB // 2 < needed[1]


def test_the_processors_that_decode_for_a_gpu_are_computed_from_the_measured_times() -> None:
    rows = re.findall(r"^\| .*?2 megapixels.*? \| (\d+) ms \| ([\d to]+) \|$", documented(), re.MULTILINE)
    (small, few), (_, many), (close, eased) = rows
    (rate,) = map(int, re.findall(r"cores for a GPU with (\d+) images/s", documented()))
    profile = BUILT_IN["compact"]
    assert 1000 * profile.decode_core_s(2) / 2 == pytest.approx(int(small), rel=0.1)
    assert round(rate * profile.decode_core_s(2)) == int(few)
    least, most = many.split(" to ")
    assert int(least) <= rate * profile.decode_core_s(12) <= int(most)
    page = (ROOT / "docs" / "guide" / "sizing.md").read_text()
    (measured,) = map(int, re.findall(r"\| 12 \| \d+ \| \d+ ms \| (\d+) ms \|", page))
    assert (round(measured / 12), round(rate * measured / 1000)) == (int(close), int(eased))
    assert int(worker_of(overlay("gpu"))["resources"]["requests"]["cpu"]) == int(few)


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
