"""`tagstream capacity` and `tagstream bench`: their output and their arguments."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from sharpness import SharpnessKind
from sharpness.model import make_bundle
from tests.support.command import Tagstream
from tests.unit.models.small import CPU
from workers.assembly import bench_measures
from workers.capacity import BUILT_IN
from workers.cli.bench import report
from workers.cli.capacity import read_profile
from workers.models import result_kinds


def test_capacity_tells_people_what_to_buy_and_to_set(tagstream: Tagstream) -> None:
    shown = tagstream("capacity", 1_000_000, "--megapixels", 12).done
    for named in ("workers", "partitions", "Redis", "GB/s", "lagThreshold of the autoscaler"):
        assert named in shown
    assert "cost" not in shown
    assert "*" not in shown


def test_capacity_of_several_processes_bounds_the_autoscaler(tagstream: Tagstream) -> None:
    one = ("capacity", 10**9, "--images-per-s", 900, "--cores", 64)
    told, alone = tagstream(*one, "--processes", 4, "--json").json, tagstream(*one, "--json").json
    said = tagstream(*one, "--processes", 4).out
    assert f"maxReplicaCount of the autoscaler: at most {told['partitions'] // 4}," in said
    assert alone["bound"] == "interpreter"
    assert told["worker_images_per_s"] > 1.5 * alone["worker_images_per_s"]
    assert told["worker_bytes"] > alone["worker_bytes"]


def test_capacity_tells_programs_the_same(tagstream: Tagstream) -> None:
    told = json.loads(tagstream("capacity", 1_000_000, "--price", 1, "--cores", 16, "--json").out)
    assert told["images_per_s_at_peak"] == pytest.approx(3e6 / 86_400)
    assert told["workers"] >= 2
    assert told["bound"] == "processors"
    assert told["cost_a_day"] >= 48


def test_captions_of_a_service_are_counted_in_requests_and_tokens(tagstream: Tagstream) -> None:
    asked = ("--known", 0.5, "--caption-s", 6, "--caption-tokens", 900)
    told = json.loads(tagstream("capacity", 864_000, *asked, "--json").out)
    assert (told["captions_at_once"], told["caption_tokens_a_day"]) == (90, 388_800_000)
    said = tagstream("capacity", 864_000, *asked).out
    assert "388,800,000" in said
    assert f"TAGSTREAM_CAPTION_FILE: {-(-90 // told['workers'])}" in said
    assert "token" not in tagstream("capacity", 864_000).out


def test_a_device_s_rate_makes_it_a_gpu_which_bounds_or_waits(tagstream: Tagstream) -> None:
    fast = ("--images-per-s", 280, "--megapixels", 12)
    starved = tagstream("capacity", 10**9, *fast, "--cores", 4)
    assert "bounded by the processors" in starved.out
    assert "The GPU waits for decoders" in starved.out
    assert "bounded by the device" in tagstream("capacity", 10**9, *fast, "--cores", 128).out
    assert "TAGSTREAM_CACHE_TTL_S" in starved.out


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_measures, "TIMED_S", 0.0)


def test_a_batch_runs_until_its_time_has_passed_and_three_times_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []

    class Use:
        def trial(self, model: object, images: list[object]) -> None:
            runs.append(len(images))
            time.sleep(0.01)

    model = SimpleNamespace(self_test_image=lambda: None)
    monkeypatch.setattr(bench_measures, "use_named", lambda _: Use())
    for least_s, fewest, most in ((0.0, 3, 3), (0.2, 4, 20)):
        monkeypatch.setattr(bench_measures, "TIMED_S", least_s)
        seconds, _ = bench_measures._of_a_batch({"tagger": model}, CPU, 2, lambda *_: None)
        assert seconds >= 0.01
        assert set(runs) == {2}
        assert fewest <= len(runs) <= most
        runs.clear()


@pytest.mark.slow
@pytest.mark.usefixtures("_at_once")
def test_bench_measures_bundles_and_capacity_reads_its_file(
    tagstream: Tagstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_kinds, "kinds", lambda: {"sharpness": SharpnessKind()})
    monkeypatch.setenv("TAGSTREAM_ROLES", f"sharpness={make_bundle(tmp_path / 'sharpness').folder}")
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, side in enumerate((64, 512)):
        Image.new("RGB", (side, side), (number, 80, 120)).save(photos / f"{number}.jpg")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    output = tmp_path / "here.json"

    ran = tagstream("bench", photos, "--model", "compact", "--captioner", "none", "--device", "cpu", "-o", output)

    assert ran.code == 0, ran.err
    assert ran.out.startswith("| | |\n|---|---|\n| machine | ")
    assert "broken.jpg" in ran.err
    written = read_profile(str(output))
    assert [round(each.megapixels, 3) for each in written.decoded] == [0.004, 0.262]
    assert written.decoded[0].core_s < written.decoded[1].core_s
    assert written.device == "cpu"
    assert written.weights_bytes > 0
    assert written.name == "compact fp32, sharpness fp32"
    assert tagstream("capacity", 1_000, "--profile", output, "--json").code == 0


@pytest.mark.slow
@pytest.mark.usefixtures("_at_once")
def test_without_photos_bench_draws_some_of_three_sizes(tagstream: Tagstream) -> None:
    ran = tagstream("bench", "--model", "compact", "--captioner", "none", "--json")
    decoded = json.loads(ran.out)["decoded"]
    assert [round(each["megapixels"], 1) for each in decoded] == [0.3, 2.0, 12.0]
    assert decoded[0]["core_s"] < decoded[1]["core_s"] < decoded[2]["core_s"]


@pytest.mark.slow
@pytest.mark.usefixtures("_at_once")
def test_bench_needs_one_image_at_least_that_can_be_decoded(tagstream: Tagstream, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no picture")
    missing = tmp_path / "missing.jpg"
    said = tagstream("bench", broken, missing, "--model", "compact", "--captioner", "none").fails()
    assert f"{missing}: No such file or directory\n" in said
    assert "None of these images can be decoded" in said


def test_a_report_has_three_sizes_at_most_and_names_the_batch_once() -> None:
    compact = BUILT_IN["compact"]
    assert report(compact).count("decoding") == 3
    assert report(compact.model_copy(update={"batch": 1})).count("a batch of 1 |") == 1
