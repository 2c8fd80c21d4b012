"""Figures that docs/deploying.md says are those of the files and of the code."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.unit.deploy.test_kubernetes import OLDEST_KUBERNETES
from tests.unit.deploy.tools import (
    COMPONENTS,
    ROOT,
    Manifest,
    compose,
    overlay,
    pod_environment,
    settings_of,
    the,
    worker_of,
)
from workers import settings
from workers.backends import renewal
from workers.capacity import BUILT_IN
from workers.cli import exit_codes, memory, topic_advice
from workers.cli.topic_advice import wanted_topics
from workers.intake import header
from workers.intake.limits import Limits
from workers.service import logs
from workers.service.http import ConnectionLimits

pytestmark = pytest.mark.slow

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
MIB, GIB = 2**20, 2**30
UNSET = settings.Settings()


def said() -> str:
    """The page with its lines joined."""
    return " ".join((ROOT / "docs" / "deploying.md").read_text().split())


def assert_says(*sentences: str) -> None:
    page = said()
    assert [sentence for sentence in sentences if sentence not in page] == []


def scaled(*components: str) -> Manifest:
    found: Manifest = the(overlay("cpu", *components), "ScaledObject")["spec"]
    return found


def pod(base: str = "cpu") -> Manifest:
    found: Manifest = the(overlay(base), "Deployment")["spec"]["template"]["spec"]
    return found


def own_settings() -> dict[str, Any]:
    found: dict[str, Any] = settings_of(overlay("cpu"))["data"]
    return found


def test_the_user_is_the_images_and_the_pods() -> None:
    user = pod()["securityContext"]["runAsUser"]
    assert f"USER {user}:" in (ROOT / "Dockerfile").read_text()
    assert_says(f"Both run as user {user},")


def test_the_oldest_kubernetes_is_the_one_whose_schemas_the_manifests_meet() -> None:
    assert_says(f"for Kubernetes {OLDEST_KUBERNETES} or newer")


def test_the_build_of_torch_is_the_locks() -> None:
    (cuda,) = set(re.findall(r"^nvidia-.*-cu(\d+)==", (ROOT / "requirements-torch.lock").read_text(), re.MULTILINE))
    assert_says(f"The `cuda` one is made for CUDA {cuda};")


def test_kafkas_own_commands_make_the_topics_that_ours_makes() -> None:
    asked = {
        topic: (int(partitions), dict(each.split("=") for each in re.findall(r"--config (\S+)", configs)))
        for topic, partitions, configs in re.findall(
            r"--create --topic (\S+) --partitions (\d+)((?: --config \S+)*)", said()
        )
    }
    wanted = wanted_topics(
        settings.read({name: value for name, value in own_settings().items() if not name.endswith("_FILE")})
    )
    assert asked == {topic.name: (topic.partitions(topic_advice.PARTITIONS), topic.settings(1)) for topic in wanted}
    copies = topic_advice.REPLICATION_MAX
    assert_says(
        f"Each has {NUMBERS[copies]} copies, or as many as there are brokers, and with {NUMBERS[copies]} "
        f"`min.insync.replicas={wanted[0].settings(copies)['min.insync.replicas']}`"
    )


def test_the_four_components_for_gpus_are_all_there_are() -> None:
    count = sum(name.startswith("gpu-") for name in COMPONENTS)
    assert_says(f"The {NUMBERS[count]} `gpu-…` components")


def test_addresses_are_the_ports_of_the_compose_files() -> None:
    ports = {
        (port.get("host_ip"), port.get("published"))
        for service in compose("cpu", observed=True)["services"].values()
        for port in service.get("ports", ())
    }
    named = set(re.findall(r"http://(127\.0\.0\.1):(\d+)", said()))
    assert len(named) == 4
    assert named <= ports


def test_partitions_are_as_many_as_workers_may_be() -> None:
    most = scaled()["maxReplicaCount"]
    counts = [int(each) for each in re.findall(r"topics create --partitions (\d+)", said())]
    assert counts == [most, most]
    assert_says(f"the numbers of workers that divide {most} partitions")


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
    assert_says(
        f"the seconds that an image may wait ({wait}), the least rate that is believed ({least} images a second"
    )


def test_the_way_down_is_the_autoscalers() -> None:
    down = scaled()["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    (policy,) = down["policies"]
    assert (policy["type"], policy["value"]) == ("Percent", 50)
    most, least = scaled()["maxReplicaCount"], scaled()["minReplicaCount"]
    every, after = (NUMBERS[seconds // 60] for seconds in (policy["periodSeconds"], down["stabilizationWindowSeconds"]))
    assert_says(
        f"It goes down to half every {every} minutes, {after} minutes after the lag is gone: "
        f"from {most} workers over {most // 2} and {most // 4} to {least}"
    )
    assert scaled()["fallback"]["replicas"] == 2
    assert_says("a single one gets a second (`fallback`)")


def test_a_backfill_has_the_priority_quota_and_pauses_of_its_files() -> None:
    manifests = overlay("cpu", "backfill")
    spec = the(manifests, "ScaledObject")["spec"]
    pods = int(the(manifests, "ResourceQuota")["spec"]["hard"]["pods"])
    assert_says(
        f"the PriorityClass `tagstream-backfill` ({the(manifests, 'PriorityClass')['value']}, without preemption",
        f"counts that class alone: {NUMBERS[pods]} workers at most",
        f"go {NUMBERS[spec['cooldownPeriod'] // 60]} minutes after the last "
        f"(`minReplicaCount: {spec['minReplicaCount']}`)",
    )


def test_a_fixed_size_is_the_components() -> None:
    replicas = the(overlay("cpu", "fixed-size"), "Deployment")["spec"]["replicas"]
    assert_says(f"`fixed-size` | {NUMBERS[replicas]} workers and no KEDA")


def test_one_trace_in_a_hundred_is_the_components() -> None:
    environment = pod_environment(overlay("cpu", "otlp"), {})
    assert float(environment["OTEL_TRACES_SAMPLER_ARG"]) == 1 / 100
    assert_says("traces (one in a hundred,")


def test_times_of_leaving_are_the_pods() -> None:
    drain = int(own_settings()["TAGSTREAM_DRAIN_S"])
    assert drain == UNSET.drain_s
    assert_says(
        f"for `TAGSTREAM_DRAIN_S` ({drain} s) at most",
        f"`terminationGracePeriodSeconds` ({pod()['terminationGracePeriodSeconds']} s)",
        f"two seconds more than `TAGSTREAM_KAFKA_SESSION_TIMEOUT_S` ({UNSET.kafka_transaction_timeout_s:.0f} s)",
    )


def test_rollouts_start_or_end_a_worker_first_as_the_overlays_say() -> None:
    surges = {
        base: the(overlay(base), "Deployment")["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
        for base in ("cpu", "gpu")
    }
    assert_says(
        f"On processors a rollout starts a new worker before an old one leaves (`maxSurge: {surges['cpu']}`)",
        f"one worker leaves first (`maxSurge: {surges['gpu']}`)",
    )


def test_the_ports_limits_are_the_servers() -> None:
    limits = ConnectionLimits()
    assert_says(
        f"A client has {limits.seconds:.0f} seconds for each read and write; "
        f"of {limits.connections} connections the oldest"
    )


def test_exit_codes_are_the_programs() -> None:
    assert_says(
        f"Exit codes: {exit_codes.DONE} drained, {exit_codes.MISCONFIGURED} wrong settings or a bundle",
        f"{exit_codes.BROKEN} a broken device or a stall, {exit_codes.OUR_BUG} a bug.",
        f"writes where every thread stands to its log, and exits with {exit_codes.BROKEN};",
        f"workers exit with {exit_codes.MISCONFIGURED}, for want of the bundle",
    )


def sum_of(decoders: int = 0, weights: int = 0, **budgets: int) -> int:
    """The memory that a worker takes at worst, without the program, with every budget at 0 but these."""
    names = ("encoded_bytes", "polled_bytes", "ledger_bytes", "decoded_bytes", "decode_memory")
    none: dict[str, Any] = dict.fromkeys(names, 0)
    read = settings.Settings.model_construct(**none | budgets)
    return memory.worst_bytes(read, decoders, weights) - memory.PROGRAM_BYTES


def test_the_parts_of_the_memory_are_those_that_are_added_up() -> None:
    much = 400 * MIB
    polled = sum_of(polled_bytes=much) // much
    assert sum_of(encoded_bytes=much) == sum_of(ledger_bytes=much) == much
    assert_says(
        f"`TAGSTREAM_ENCODED_BYTES` + {polled} × `TAGSTREAM_POLLED_BYTES`",
        f"| children | {sum_of(decoders=1) // MIB} MiB for each of `TAGSTREAM_DECODE_THREADS` |",
        f"| program | {memory.PROGRAM_BYTES // MIB} MiB, measured",
    )
    assert sum_of(weights=much) == 2 * much
    assert_says("| models | twice the bundles' weights")
    assert sum_of(decoded_bytes=much) == much * 5 // 4
    assert sum_of(decoded_bytes=much, decode_memory=much) == (much // 2 + much) * 5 // 4
    assert_says("| decoding | five quarters of: half of `TAGSTREAM_DECODED_BYTES`, and its other half or")


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
    allowed = own_settings()["TAGSTREAM_DECODE_MEMORY"]
    found = re.search(r"to (\d) GiB, enough for a progressive JPEG of (\d+) megapixels or a WebP of (\d+)", said())
    assert found is not None
    assert allowed == f"{found[1]}GiB"
    assert_says(f"`TAGSTREAM_MAX_PIXELS` allows {UNSET.max_pixels // 10**6} million pixels")
    limits = Limits(max_pixels=10**9, decode_bytes=10**12)
    for image, megapixels in ((jpeg, int(found[2])), (webp, int(found[3]))):
        width = 10_000
        needed = [
            header.read_header(image(width, size * 10**6 // width), limits).decode_bytes
            for size in (megapixels, megapixels * 3 // 2)
        ]
        assert needed[0] <= int(found[1]) * GIB < needed[1]


def test_the_processors_that_decode_for_a_gpu_are_computed_from_the_measured_times() -> None:
    found = re.search(
        r"about (\d+) ms of one processor for each megapixel of a JPEG, so a GPU that does (\d+) images of two "
        r"megapixels a second wants (\w+) of them, of twelve megapixels (\d+) to (\d+)\. "
        r"Photos of that size take (\d) ms a megapixel with \S+: (\w+)\.",
        said(),
    )
    assert found is not None
    each_ms, rate, cores, close_ms = int(found[1]), int(found[2]), found[3], int(found[6])
    profile = BUILT_IN["compact"]
    assert 1000 * profile.decode_core_s(2) / 2 == pytest.approx(each_ms, rel=0.1)
    assert NUMBERS[round(rate * profile.decode_core_s(2))] == cores
    assert int(found[4]) <= rate * profile.decode_core_s(12) <= int(found[5])
    measured = re.search(r"\| 12 \| \d+ \| \d+ ms \| (\d+) ms \|", (ROOT / "docs" / "performance.md").read_text())
    assert measured is not None
    assert round(int(measured[1]) / 12) == close_ms
    assert NUMBERS[round(rate * int(measured[1]) / 1000)] == found[7]


def test_gpu_workers_ask_for_the_processors_that_such_a_rate_wants() -> None:
    assert_says(f"wants {NUMBERS[int(worker_of(overlay('gpu'))['resources']['requests']['cpu'])]} of them")


def test_the_lines_that_one_place_logs_are_the_loggers() -> None:
    assert_says(f"the code writes {logs.LINES_A_MINUTE} lines a minute at most")


def test_keys_of_the_storage_are_renewed_when_the_code_does_it() -> None:
    assert renewal.RENEWED_AFTER == 4 / 5
    assert_says("Keys are renewed when four fifths of their life are over")


def test_the_time_to_wait_for_the_job_is_the_jobs() -> None:
    job = the(overlay("cpu", "bundles-job"), "Job")["spec"]
    assert_says(f"--timeout={job['activeDeadlineSeconds'] // 3600}h job/tagstream-bundles")


def documented(kind: str) -> Sequence[Manifest]:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "deploying.md").read_text(), re.DOTALL)
    return [found for block in blocks for found in yaml.safe_load_all(block) if found.get("kind") == kind]


def test_the_documented_claim_is_the_one_that_is_mounted_and_holds_what_the_job_makes() -> None:
    (claim,) = documented("PersistentVolumeClaim")
    job = the(overlay("cpu", "bundles-job"), "Job")["spec"]["template"]["spec"]
    (mounted,) = [each["persistentVolumeClaim"] for each in job["volumes"] if "persistentVolumeClaim" in each]
    assert (claim["metadata"]["name"], claim["metadata"]["namespace"]) == (mounted["claimName"], "tagstream")
    made = [
        float(each) * 1e9 for each in re.findall(r"\| (0\.\d+) GB in bf16", (ROOT / "docs" / "models.md").read_text())
    ]
    assert len(made) == 3
    assert int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) * GIB > sum(made)
