"""`tagstream models list`, `verify` and `tune`, and the list of allowed labels."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Tagstream
from workers.assembly.composition import load_models
from workers.environment import read
from workers.errors import BROKEN
from workers.models.bundle import Bundle
from workers.models.device import Device
from workers.models.precision import Tuned, remember_tuned
from workers.ports import Tagger

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("TAGSTREAM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TAGSTREAM_DEVICE", "cpu")
    monkeypatch.chdir(tmp_path)


def test_list_shows_the_built_in_tagger_and_the_bundles_of_the_default_folder(
    ram: Bundle, tagstream: Tagstream
) -> None:
    compact, mine = tagstream("models", "list").done.splitlines()[1:]
    assert compact.split()[:3] == ["compact", "efficientnet_lite0", "tagger"]
    assert "random weights, seed 0" in mine
    assert mine.endswith("bundles/ram")


def test_list_takes_bundles_and_folders_and_names_what_does_not_load(
    ram: Bundle, tag2text: Bundle, tmp_path: Path, tagstream: Tagstream
) -> None:
    (tag2text.folder / "tags.txt").unlink()
    out = tagstream("models", "list", ram.folder, tag2text.folder, tmp_path / "no").done
    assert str(ram.folder) in out
    assert "tags.txt is missing" in out
    assert "no is no folder" in out


def test_list_tells_a_program_the_same(ram: Bundle, tmp_path: Path, tagstream: Tagstream) -> None:
    shown = tagstream("models", "list", "--json", ram.folder, tmp_path / "no").done
    compact, mine, broken = map(json.loads, shown.splitlines())
    assert (compact["use_as"], compact["uses"], compact["random_weights"]) == ("compact", ["tagger"], False)
    assert (mine["use_as"], mine["digest"], mine["random_weights"]) == (str(ram.folder), ram.digest, True)
    assert "no is no folder" in broken["error"]


def test_list_says_the_uses_of_a_bundle(ram: Bundle, tag2text: Bundle, tmp_path: Path, tagstream: Tagstream) -> None:
    strange = ram.manifest.model_copy(update={"kind": "strange"})
    Bundle.write(tmp_path / "bundles" / "strange", strange, weights=ram.weights(), labels=ram.labels)
    shown = {line.split()[-1]: line for line in tagstream("models", "list").done.splitlines()}
    assert " tagger, captioner " in shown["bundles/tag2text"]
    assert " tagger " in shown["bundles/ram"]
    assert "(its builder is not installed)" in shown["bundles/strange"]


def test_verify_reads_every_file_and_computes_the_golden_answers(tag2text: Bundle, tagstream: Tagstream) -> None:
    ran = tagstream("models", "verify", tag2text.folder, "--precision", "fp32")
    files, digest, tagger, captioner = ran.done.splitlines()
    assert files.startswith("✓ 4 files")
    assert digest.endswith(f"TAGSTREAM_CAPTIONER={tag2text.folder}@sha256:{tag2text.digest}")
    assert tagger.startswith("✓ tagger in fp32: its golden answers (2 of 2 tag sets, logits within ")
    assert captioner == "✓ captioner in fp32: its golden answers (2 of 2 captions)"
    assert "its answers mean nothing" in ran.err
    told = tagstream("models", "verify", tag2text.folder, "--precision", "fp32", "--json").json
    assert (told["digest"], told["random_weights"]) == (tag2text.digest, True)
    assert [(each["use"], each["precision"]) for each in told["golden"]] == [("tagger", "fp32"), ("captioner", "fp32")]
    assert told["golden"][1]["agreement"] == "2 of 2 captions"


def test_verify_finds_one_wrong_byte_among_the_weights(ram: Bundle, tagstream: Tagstream) -> None:
    weights = ram.folder / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "weights.safetensors is not the bundle's original file" in tagstream("models", "verify", ram.folder).fails()


def test_verify_finds_a_device_that_computes_wrongly(
    ram: Bundle, monkeypatch: pytest.MonkeyPatch, tagstream: Tagstream
) -> None:
    monkeypatch.setattr("workers.models.ram.swin.Swin.forward", lambda self, x: x.new_zeros(len(x), 5, 128))
    assert "does not give its golden answers" in tagstream("models", "verify", ram.folder).fails(BROKEN)


def test_verify_says_when_there_is_nothing_to_compare(ram: Bundle, tmp_path: Path, tagstream: Tagstream) -> None:
    Bundle.write(tmp_path / "bare", ram.manifest, weights=ram.weights(), labels=ram.labels)
    assert "no golden answers" in tagstream("models", "verify", tmp_path / "bare").notes
    assert tagstream("models", "verify", tmp_path / "bare", "--json").json["golden"] is None


def test_verify_takes_the_built_in_tagger_by_its_name(tagstream: Tagstream) -> None:
    assert "✓ tagger in fp32" in tagstream("models", "verify", "compact").done


@pytest.fixture
def _timed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.models.tune.WARM_S", 0.0)
    monkeypatch.setattr("workers.models.tune.TIMED_S", 0.0)


@pytest.mark.usefixtures("_timed_at_once")
def test_tune_keeps_the_fastest_that_agrees_for_every_use(
    tag2text: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tagstream: Tagstream
) -> None:
    monkeypatch.setattr("workers.models.tune.LARGEST_BATCH", 2)
    out = tagstream("models", "tune", tag2text.folder).done
    kept = [json.loads(path.read_text()) for path in (tmp_path / "state" / "tuned").iterdir()]
    assert {each["use"] for each in kept} == {"tagger", "captioner"}
    for each in kept:
        line = f"Tag2Text as a {each['use']} on {each['device']}: {each['precision']}, batches of {each['max_batch']}"
        assert f"{line}; kept in {tmp_path / 'state'}" in out
    assert out.count("2 of 2 tag sets, logits within") >= 1
    assert out.count("2 of 2 captions") >= 1
    assert out.count("fp32") >= 2


@pytest.mark.usefixtures("_timed_at_once")
def test_tune_may_look_at_one_use_alone(
    tag2text: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tagstream: Tagstream
) -> None:
    monkeypatch.setattr("workers.models.tune.LARGEST_BATCH", 1)
    assert "captioner" not in tagstream("models", "tune", tag2text.folder, "--as", "tagger").done
    assert len(list((tmp_path / "state" / "tuned").iterdir())) == 1


@pytest.mark.usefixtures("_timed_at_once")
def test_tune_tells_a_program_each_trial_and_which_was_chosen(
    ram: Bundle, monkeypatch: pytest.MonkeyPatch, tagstream: Tagstream
) -> None:
    monkeypatch.setattr("workers.models.tune.LARGEST_BATCH", 2)
    trials = [json.loads(line) for line in tagstream("models", "tune", "--json", ram.folder).done.splitlines()]
    assert len({trial["precision"] for trial in trials}) == len(trials)
    [chosen] = [trial for trial in trials if trial["chosen"]]
    assert chosen["refusal"] is None
    assert chosen["images_per_s"] > 0


def test_the_processes_of_a_worker_tune_beside_each_other_and_one_answer_is_kept(
    ram: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tagstream: Tagstream
) -> None:
    beside: list[int] = []

    def tune_model(bundle: str, state_dir: Path, **options: Any) -> Tuned:
        beside.append(len(multiprocessing.active_children()))
        assert options["share"] == 1 / 3
        tuned = Tuned(ram.digest, "tagger", "here", "fp32", 2, "eager")
        remember_tuned(tuned, Device("cpu", "here"), state_dir)
        return tuned

    monkeypatch.setattr("workers.models.load.tune_model", tune_model)
    assert tagstream("models", "tune", "--as", "tagger", ram.folder, WORKERS=3, STATE_DIR=tmp_path).code == 0
    assert beside == [2]
    assert multiprocessing.active_children() == []
    assert len(list((tmp_path / "tuned").iterdir())) == 1


def test_only_models_with_storable_answers_are_tuned(
    ram: Bundle, monkeypatch: pytest.MonkeyPatch, tagstream: Tagstream
) -> None:
    monkeypatch.setattr("workers.models.load.tune_model", lambda *_, **__: pytest.fail("minutes of work for nothing"))
    said = tagstream("models", "tune", ram.folder, STATE_DIR="/dev/null/state").fails()
    assert said == "/dev/null/state can't be written: /dev/null is no folder\n"


def test_no_bundle_is_begun_that_can_not_be_put_there(monkeypatch: pytest.MonkeyPatch, tagstream: Tagstream) -> None:
    """Not even root writes in /proc, whose rights allow it."""
    monkeypatch.setattr("workers.models.ram.importer.random_bundle", lambda *_, **__: pytest.fail("work for nothing"))
    refused = "/proc is read-only, or this user's rights are too few"
    said = tagstream("models", "random", "ram", "-o", "/proc/bundles/ram").fails()
    assert said == f"/proc/bundles can't be written: {refused}\n"


def test_a_bundle_that_can_not_caption_is_not_tuned_for_it(ram: Bundle, tagstream: Tagstream) -> None:
    assert "no captioner can be made" in tagstream("models", "tune", ram.folder, "--as", "captioner").fails()


def _loaded(folder: Path, allow: Path) -> Tagger:
    settings = read({"TAGSTREAM_TAGGER": str(folder), "TAGSTREAM_DEVICE": "cpu", "TAGSTREAM_LABELS_FILE": str(allow)})
    return load_models(settings)["tagger"]


def test_a_worker_scores_only_the_labels_in_the_list_of_allowed_ones(ram: Bundle, tmp_path: Path) -> None:
    allow = tmp_path / "allow.txt"
    allow.write_text("label 7\nlabel 2\n")
    tagger = _loaded(ram.folder, allow)
    (raw,) = tagger.forward([tagger.self_test_image()])
    assert raw.shape == (2,)
    assert set(tagger.postprocess(raw).label_ids.tolist()) <= {2, 7}
