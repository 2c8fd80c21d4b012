"""Figures in docs/guide/deploying.md, and in pages that it links, are those of the files and of the code."""

import io
import re
from collections.abc import Sequence
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.unit.deploy.test_kubernetes import OLDEST_KUBERNETES
from tests.unit.deploy.tools import (
    ROOT,
    Manifest,
    compose,
    overlay,
    pod_environment,
    settings_of,
    the,
    worker_of,
)
from workers import environment, errors, settings
from workers.backends import renewal
from workers.capacity import BUILT_IN
from workers.cli import needs, topics
from workers.cli.topics import wanted_topics
from workers.intake import header
from workers.intake.limits import Limits
from workers.service import logs
from workers.service.http import ConnectionLimits

pytestmark = pytest.mark.slow

MIB, GIB = 2**20, 2**30
UNSET = settings.Settings()


def said() -> str:
    """The page with its lines joined."""
    return " ".join(page_text().split())


def page_text() -> str:
    return (ROOT / "docs" / "guide" / "deploying.md").read_text()


def passages() -> list[str]:
    """Each row of a table, item of a list and paragraph of the page, on one line."""
    text = re.sub(r"\n(?=[-|*#] ?)", "\n\n", page_text())
    return [" ".join(passage.split()) for passage in text.split("\n\n")]


def assert_together(*parts: str) -> None:
    """That some passage has all of these, each as words or numbers of their own."""
    whole = [re.compile(rf"(?<![\w.]){re.escape(part)}(?!\w|\.\d)") for part in parts]
    assert any(all(part.search(passage) for part in whole) for passage in passages()), parts


def scaled(*components: str) -> Manifest:
    found: Manifest = the(overlay("cpu", *components), "ScaledObject")["spec"]
    return found


def pod(base: str = "cpu") -> Manifest:
    found: Manifest = the(overlay(base), "Deployment")["spec"]["template"]["spec"]
    return found


def own_settings() -> dict[str, Any]:
    found: dict[str, Any] = settings_of(overlay("cpu"))["data"]
    return found


def named_together() -> list[tuple[str, ...]]:
    """What some passage has to name together: a thing and its figure, which is that of a file or of the code."""
    user = pod()["securityContext"]["runAsUser"]
    assert f"USER {user}:" in (ROOT / "Dockerfile").read_text()
    (cuda,) = set(re.findall(r"^nvidia-.*-cu(\d+)==", (ROOT / "requirements-torch.lock").read_text(), re.MULTILINE))
    drain = int(own_settings()["TAGSTREAM_DRAIN_S"])
    assert (drain, renewal.RENEWED_AFTER) == (UNSET.drain_s, 4 / 5)
    traces = float(pod_environment(overlay("cpu", "otlp"), {})["OTEL_TRACES_SAMPLER_ARG"])
    job = the(overlay("cpu", "bundles-job"), "Job")["spec"]
    return [
        ("user", str(user)),
        ("kustomize", f"Kubernetes {OLDEST_KUBERNETES}"),
        ("`cuda`", f"CUDA {cuda}"),
        ("`fixed-size`", f"{the(overlay('cpu', 'fixed-size'), 'Deployment')['spec']['replicas']} workers"),
        ("`otlp`", f"{100 * traces:g} %"),
        (f"`TAGSTREAM_DRAIN_S` ({drain} s)",),
        (f"`terminationGracePeriodSeconds` ({pod()['terminationGracePeriodSeconds']} s)",),
        (f"`TAGSTREAM_KAFKA_SESSION_TIMEOUT_S` plus 2 s ({UNSET.kafka_transaction_timeout_s:.0f} s in all)",),
        (f"{logs.LINES_A_MINUTE} lines a minute",),
        ("renewed after 4/5 of their life",),
        (f"--timeout={job['activeDeadlineSeconds'] // 3600}h job/tagstream-bundles",),
    ]


def test_a_figure_is_that_of_the_files_and_the_code() -> None:
    for parts in named_together():
        assert_together(*parts)


def test_the_port_of_probes_bounds_its_clients_as_the_page_on_security_says() -> None:
    limits = ConnectionLimits()
    page = (ROOT / "docs" / "design" / "security.md").read_text()
    (row,) = re.findall(r"^\| \*\*who reaches the port of probes\*\* .*$", page, re.MULTILINE)
    assert f" {limits.seconds:.0f} seconds for each read and write, {limits.connections} at once" in row


def test_the_table_of_topics_has_the_settings_that_our_command_sets() -> None:
    page = (ROOT / "docs" / "guide" / "operating.md").read_text()
    rows = re.findall(r"^\| (input|output|dead letters|skipped) \| (`--partitions`|1) \| (.*?) \|", page, re.MULTILINE)
    listed = [
        (12 if partitions == "`--partitions`" else int(partitions), dict(re.findall(r"`([a-z.]+)=(\S+)`", configs)))
        for _, partitions, configs in rows
    ]
    wanted = wanted_topics(
        environment.read({name: value for name, value in own_settings().items() if not name.endswith("_FILE")})
    )
    assert listed == [(topic.partitions(topics.PARTITIONS), topic.settings(1)) for topic in wanted]
    copies = topics.REPLICATION_MAX
    assert_together(f"{copies} replicas", f"`min.insync.replicas={wanted[0].settings(copies)['min.insync.replicas']}`")


def test_addresses_are_the_ports_of_the_compose_files() -> None:
    ports = {
        (port.get("host_ip"), port.get("published"))
        for service in compose("cpu", observed=True)["services"].values()
        for port in service.get("ports", ())
    }
    named = set(re.findall(r"http://(127\.0\.0\.1):(\d+)", said()))
    assert len(named) == 5
    assert named <= ports


def test_partitions_are_as_many_as_workers_may_be() -> None:
    most = scaled()["maxReplicaCount"]
    counts = [int(each) for each in re.findall(r"topics create --partitions (\d+)", said())]
    assert counts == [most, most]
    assert_together("`measured-rate`", f"divide {most}")


def test_a_lag_threshold_is_a_rate_times_a_wait() -> None:
    found = re.search(r'lagThreshold, value: "(\d+)"} # (\d+) images/s × (\d+) s', said())
    assert found is not None
    threshold, rate, seconds = map(int, found.groups())
    assert threshold == rate * seconds


def test_the_measured_rates_wait_and_least_rate_are_the_formulas() -> None:
    formula = scaled("measured-rate")["advanced"]["scalingModifiers"]["formula"]
    found = re.search(r"max\(rate, (\d+)\) \* (\d+) >= lag", formula)
    assert found is not None
    least, wait = found.groups()
    assert_together("`measured-rate`", f"{wait} s", f"{least} images/s")


def test_the_way_down_is_the_autoscalers() -> None:
    down = scaled()["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    (policy,) = down["policies"]
    assert (policy["type"], policy["value"]) == ("Percent", 50)
    most, least = scaled()["maxReplicaCount"], scaled()["minReplicaCount"]
    every, after = (seconds // 60 for seconds in (policy["periodSeconds"], down["stabilizationWindowSeconds"]))
    assert_together(f"after {after} minutes", f"every {every} minutes", f"{most}, {most // 2}, {most // 4}, {least}")
    assert scaled()["fallback"]["replicas"] == 2
    assert_together("`fallback`", "two")


def test_a_backfill_has_the_priority_quota_and_pauses_of_its_files() -> None:
    manifests = overlay("cpu", "backfill")
    spec = the(manifests, "ScaledObject")["spec"]
    pods = int(the(manifests, "ResourceQuota")["spec"]["hard"]["pods"])
    assert_together("PriorityClass `tagstream-backfill`", str(the(manifests, "PriorityClass")["value"]))
    assert_together(
        "ResourceQuota",
        f"{pods} workers",
        f"{spec['cooldownPeriod'] // 60} minutes",
        f"minReplicaCount: {spec['minReplicaCount']}",
    )


def test_rollouts_start_or_end_a_worker_first_as_the_overlays_say() -> None:
    surges = {
        base: the(overlay(base), "Deployment")["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
        for base in ("cpu", "gpu")
    }
    assert_together("rollout", f"maxSurge: {surges['cpu']}", f"maxSurge: {surges['gpu']}")
    assert surges["cpu"] > surges["gpu"]


def test_exit_codes_are_the_programs() -> None:
    page = (ROOT / "docs" / "guide" / "troubleshooting.md").read_text()
    named = [int(code) for code in re.findall(r"^\| (\d+) \| ", page, re.MULTILINE)]
    assert named == [errors.OUR_BUG, errors.MISCONFIGURED, errors.BROKEN, errors.UNAVAILABLE]
    assert_together("`/livez`", f"exits with {errors.BROKEN}")
    assert_together("`/bundles/ram-plus`", f"exit with {errors.MISCONFIGURED}")


def sum_of(decoders: int = 0, weights: int = 0, **budgets: int) -> int:
    """The memory that a worker takes at worst, without the program, with every budget at 0 but these."""
    names = ("encoded_bytes", "polled_bytes", "ledger_bytes", "decoded_bytes", "decode_memory", "corrections_bytes")
    none: dict[str, Any] = dict.fromkeys(names, 0)
    read = settings.Settings.model_construct(**none | budgets)
    return needs.worst_bytes(read, decoders, weights) - needs.PROGRAM_BYTES


def test_the_parts_of_the_memory_are_those_that_are_added_up() -> None:
    much = 400 * MIB
    assert sum_of(encoded_bytes=much) == sum_of(ledger_bytes=much) == much
    assert sum_of(polled_bytes=much) == 3 * much
    assert sum_of(decoded_bytes=much) == much * 5 // 4
    assert sum_of(decoded_bytes=much, decode_memory=much) == (much // 2 + much) * 5 // 4
    fixed = (UNSET.encoded_bytes * 8, UNSET.polled_bytes * 64, UNSET.ledger_bytes * 32, UNSET.corrections_bytes * 8)
    assert {*fixed, UNSET.decoded_bytes * 4, UNSET.decode_memory * 2} == {UNSET.memory}
    rows = dict(
        re.findall(r"^\| (records|corrections|decoder|models|program)\b.*? \| (.*) \|$", page_text(), re.MULTILINE)
    )
    names = ("encoded_bytes", "polled_bytes", "ledger_bytes", "decoded_bytes", "decode_memory")
    assert rows["records"] == "`TAGSTREAM_MEMORY`"
    assert 0.95 * UNSET.memory < sum_of(**{name: getattr(UNSET, name) for name in names}) <= UNSET.memory
    assert rows["corrections"] == "1/8 × `TAGSTREAM_MEMORY`"
    assert rows["decoder"] == f"{sum_of(decoders=1) // MIB} MiB × `TAGSTREAM_DECODE_THREADS`"
    assert rows["models"].startswith(f"{sum_of(weights=much) // much} × ")
    assert rows["program"] == f"{needs.PROGRAM_BYTES // MIB} MiB"


def jpeg(width: int, height: int) -> bytes:
    """A progressive JPEG, whose decoder holds all coefficients, and whose header says so; its pixels are missing."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG", progressive=True, subsampling=0)
    body = bytearray(file.getvalue())
    at = body.index(b"\xff\xc2") + 5
    body[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(body)


def webp(width: int, height: int) -> bytes:
    """A lossy WebP whose header says so; its pixels are missing."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "WEBP")
    body = bytearray(file.getvalue())
    at = body.index(b"\x9d\x01\x2a") + 3
    body[at : at + 4] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    return bytes(body)


def test_the_decode_memory_of_the_files_holds_the_images_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    allowed = own_settings()["TAGSTREAM_MEMORY"]
    images = r"(\d) GiB\. One image may take half .* JPEG of (\d+) megapixels, and for a WebP of (\d+)"
    found = re.search(images, said())
    assert found is not None
    assert allowed == f"{found[1]}GiB"
    assert f"`TAGSTREAM_MAX_PIXELS` rejects images above {UNSET.max_pixels // 10**6} megapixels" in said()
    limits = Limits(max_pixels=10**9, decode_bytes=10**12)
    for image, megapixels in ((jpeg, int(found[2])), (webp, int(found[3]))):
        width = 10_000
        needed = [
            header.read_header(image(width, size * 10**6 // width), limits).decode_bytes
            for size in (megapixels, megapixels * 3 // 2)
        ]
        assert needed[0] <= int(found[1]) * GIB // 2 < needed[1]


def test_the_processors_that_decode_for_a_gpu_are_computed_from_the_measured_times() -> None:
    rows = re.findall(r"^\| .*?2 megapixels.*? \| (\d+) ms \| ([\d to]+) \|$", page_text(), re.MULTILINE)
    (small, few), (_, many), (close, eased) = rows
    found = re.search(r"cores for a GPU with (\d+) images/s", said())
    assert found is not None
    rate, profile = int(found[1]), BUILT_IN["compact"]
    assert 1000 * profile.decode_core_s(2) / 2 == pytest.approx(int(small), rel=0.1)
    assert round(rate * profile.decode_core_s(2)) == int(few)
    least, most = many.split(" to ")
    assert int(least) <= rate * profile.decode_core_s(12) <= int(most)
    page = (ROOT / "docs" / "guide" / "performance.md").read_text()
    measured = re.search(r"\| 12 \| \d+ \| \d+ ms \| (\d+) ms \|", page)
    assert measured is not None
    assert round(int(measured[1]) / 12) == int(close)
    assert round(rate * int(measured[1]) / 1000) == int(eased)
    assert int(worker_of(overlay("gpu"))["resources"]["requests"]["cpu"]) == int(few)


def documented(kind: str) -> Sequence[Manifest]:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "guide" / "deploying.md").read_text(), re.DOTALL)
    return [found for block in blocks for found in yaml.safe_load_all(block) if found.get("kind") == kind]


def test_the_documented_claim_is_the_one_that_is_mounted_and_holds_what_the_job_makes() -> None:
    (claim,) = documented("PersistentVolumeClaim")
    job = the(overlay("cpu", "bundles-job"), "Job")["spec"]["template"]["spec"]
    (mounted,) = [each["persistentVolumeClaim"] for each in job["volumes"] if "persistentVolumeClaim" in each]
    assert (claim["metadata"]["name"], claim["metadata"]["namespace"]) == (mounted["claimName"], "tagstream")
    page = (ROOT / "docs" / "guide" / "models.md").read_text()
    made = [float(each) * 1e9 for each in re.findall(r"\| (0\.\d+) GB in bf16", page)]
    assert len(made) == 3
    assert int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) * GIB > sum(made)
