"""`tagstream models import`, `pull`, `labels` and `random`: from one command line to a bundle, or to a sentence."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.command import Tagstream
from tests.support.ran import Ran
from tests.unit.models.hub import Hub, serving
from tests.unit.models.small import SMALL, small_checkpoint
from workers.cli.app import run_command
from workers.errors import UNAVAILABLE
from workers.models import pull
from workers.models.bundle import Bundle
from workers.models.files import sha256_of
from workers.models.load import load_captioner, load_tagger
from workers.models.pull import HubFile
from workers.models.ram import config
from workers.models.ram.config import PUBLISHED, Kind
from workers.models.ram.importer import made_up_vocabulary

pytestmark = pytest.mark.slow

KINDS = tuple(PUBLISHED)
WORDS = {kind: kind.replace("_", "-") for kind in KINDS}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if the models had been published in a size that fits a test."""
    for kind, sizes in SMALL.items():
        monkeypatch.setitem(config.PUBLISHED, kind, sizes)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Files:
    def __init__(self, kind: Kind, folder: Path, tagstream: Tagstream) -> None:
        self.kind, self._tagstream = kind, tagstream
        self.checkpoint = folder / f"{kind}.pth"
        self.tensors = small_checkpoint(kind, self.checkpoint)
        self.tags = _list(folder / "tags.txt", "tag {}")
        self.thresholds = _list(folder / "thresholds.txt", "0.5{}")
        self.chinese = _list(folder / "chinese.txt", "标签{}")
        self.vocab = folder / "vocab.txt"
        self.vocab.write_text("".join(f"{token}\n" for token in made_up_vocabulary()))

    @property
    def lists(self) -> list[str]:
        lists = ["--tags", str(self.tags), "--thresholds", str(self.thresholds), "--translations", f"zh={self.chinese}"]
        return [*lists, "--vocab", str(self.vocab)] if self.kind == "tag2text" else lists

    def import_to(self, out: Path, *more: str) -> Ran:
        return self._tagstream("models", "import", self.checkpoint, *self.lists, "-o", out, *more)


def _list(path: Path, line: str) -> Path:
    path.write_text("".join(f"{line.format(number)}\n" for number in range(SMALL["ram"].labels)), encoding="utf-8")
    return path


@pytest.fixture
def ram(tmp_path: Path, tagstream: Tagstream) -> Files:
    return Files("ram", tmp_path, tagstream)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_becomes_a_bundle_that_tags(kind: Kind, tmp_path: Path, tagstream: Tagstream) -> None:
    files = Files(kind, tmp_path, tagstream)
    out = files.import_to(tmp_path / "bundles" / kind).done
    bundle = Bundle.open(tmp_path / "bundles" / kind)
    assert (bundle.manifest.kind, bundle.labels[3], bundle.translations["zh"][3]) == (kind, "tag 3", "标签3")
    assert bundle.thresholds[:2] == (0.50, 0.51)
    assert bundle.weights()["label_embed"].dtype == torch.bfloat16
    load_tagger(bundle.folder, device="cpu", precision="fp32").warm_up()
    if kind == "tag2text":
        assert load_captioner(bundle.folder, device="cpu", precision="fp32") is not None
    assert f"{bundle.manifest.name}, 60 labels" in out
    assert bundle.digest[:12] in out


def test_a_file_that_is_not_the_published_one_is_noted_and_taken(ram: Files, tmp_path: Path) -> None:
    assert "this is not the published ram_swin_large_14m.pth" in ram.import_to(tmp_path / "ram").notes


def test_a_file_with_the_wanted_checksum_is_not_noted(ram: Files, tmp_path: Path) -> None:
    assert ram.import_to(tmp_path / "ram", "--sha256", sha256_of(ram.checkpoint)).notes == ""


def test_the_published_files_licence_goes_into_the_bundle(
    ram: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = pull.PUBLISHED["ram"]
    there = replace(published.checkpoint, sha256=(sha256_of(ram.checkpoint),))
    monkeypatch.setitem(pull.PUBLISHED, "ram", replace(published, checkpoint=there))
    shown = ram.import_to(tmp_path / "ram").done
    assert "licence of the weights: MIT, by the model card of xinyu1205/recognize_anything_model" in shown
    assert Bundle.open(tmp_path / "ram").manifest.provenance.licence == published.licence
    monkeypatch.setitem(pull.PUBLISHED, "ram", replace(published, checkpoint=there, licence=None))
    shown = ram.import_to(tmp_path / "silent").done
    assert f"not known here; look at {pull.HUB}/xinyu1205/recognize_anything_model" in shown


def test_a_licence_of_ones_own_is_kept_and_no_other_is_invented(ram: Files, tmp_path: Path) -> None:
    assert ram.import_to(tmp_path / "mine", "--licence", "CC-BY-4.0").code == 0
    assert Bundle.open(tmp_path / "mine").manifest.provenance.licence == "CC-BY-4.0"
    shown = ram.import_to(tmp_path / "theirs").done
    assert Bundle.open(tmp_path / "theirs").manifest.provenance.licence is None
    assert "licence of the weights: not known here (`models import --licence`" in shown


def test_larger_images_than_it_was_trained_with_are_taken_and_said(ram: Files, tmp_path: Path) -> None:
    out = ram.import_to(tmp_path / "ram", "--image-size", "128").done
    assert "Swin, 16 wide, 1-1-2-1 blocks, 128 x 128 pixels" in out
    assert "trained with 64 x 64 pixels: position biases were resampled" in out
    assert Bundle.open(tmp_path / "ram").manifest.transform.size == 128
    assert "their side is a multiple of 32" in ram.import_to(tmp_path / "odd", "--image-size", "100").fails()


def test_missing_thresholds_are_noted(ram: Files, tmp_path: Path, tagstream: Tagstream) -> None:
    arguments = ["models", "import", str(ram.checkpoint), "--tags", str(ram.tags), "-o", str(tmp_path / "ram")]
    said = tagstream(*arguments).notes
    assert "every label has the threshold 0.68; give ram_tag_list_threshold.txt, the published ones" in said


def test_wrong_files_end_with_a_sentence_and_leave_nothing(ram: Files, tmp_path: Path) -> None:
    out = tmp_path / "bundles" / "ram"
    assert "download it again" in ram.import_to(out, "--sha256", "0" * 64).fails()
    ram.tags.write_text("only one\n")
    assert "tags.txt has 1 lines where the checkpoint has 60 labels" in ram.import_to(out).fails()
    ram.checkpoint.write_bytes(ram.checkpoint.read_bytes()[:9999])
    assert "is cut short" in ram.import_to(out).fails()
    assert not out.exists()


@pytest.mark.parametrize("given", ["chinese.txt", "=chinese.txt", "zh=", "../zh=chinese.txt"])
def test_a_translation_needs_its_language(ram: Files, tmp_path: Path, given: str) -> None:
    assert "write LANGUAGE=FILE" in ram.import_to(tmp_path / "ram", "--translations", given).fails()


def test_a_bundle_is_replaced_only_when_it_is_asked_for(ram: Files, tmp_path: Path) -> None:
    assert ram.import_to(tmp_path / "ram").code == 0
    assert "exists already; give --replace" in ram.import_to(tmp_path / "ram").fails()
    assert ram.import_to(tmp_path / "ram", "--replace", "--dtype", "fp32").code == 0
    assert Bundle.open(tmp_path / "ram").weights()["label_embed"].dtype == torch.float32


def test_a_folder_of_other_things_is_never_replaced(ram: Files, tmp_path: Path) -> None:
    holiday = tmp_path / "photos" / "holiday.jpg"
    holiday.parent.mkdir()
    holiday.touch()
    assert "is no bundle" in ram.import_to(holiday.parent, "--replace").fails()
    assert holiday.exists()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub()) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        yield served


def _publish(files: Files, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    published = pull.PUBLISHED[files.kind]

    def there(wanted: HubFile, path: Path) -> HubFile:
        address = wanted.address and f"{hub.endpoint}/lists/{wanted.name}"
        put = replace(wanted, sha256=(sha256_of(path),), size=path.stat().st_size, address=address)
        hub.files[put.url(hub.endpoint).removeprefix(f"{hub.endpoint}/")] = path.read_bytes()
        return put

    put = replace(
        published,
        checkpoint=there(published.checkpoint, files.checkpoint),
        tags=there(published.tags, files.tags),
        thresholds=published.thresholds and there(published.thresholds, files.thresholds),
        chinese=published.chinese and there(published.chinese, files.chinese),
    )
    monkeypatch.setitem(pull.PUBLISHED, files.kind, put)
    monkeypatch.setattr(pull, "VOCABULARY", there(pull.VOCABULARY, files.vocab))


@pytest.mark.parametrize("kind", KINDS)
def test_one_command_goes_from_nothing_to_a_bundle(
    kind: Kind, hub: Hub, tmp_path: Path, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(kind, tmp_path, tagstream)
    _publish(files, hub, monkeypatch)
    ran = tagstream("models", "pull", WORDS[kind], "-o", tmp_path / "out")
    bundle = Bundle.open(tmp_path / "out")
    assert bundle.manifest.provenance.sha256 == sha256_of(files.checkpoint)
    assert bundle.labels[3] == "tag 3"
    assert bundle.translations.keys() == (set() if kind == "tag2text" else {"zh"})
    assert bundle.thresholds[1] == (0.68 if kind == "tag2text" else 0.51)
    assert f"The download stays at {tmp_path / 'cache' / 'tagstream' / 'downloads'}" in ran.done
    assert ran.err == ""


def test_a_kept_bundle_is_not_fetched_or_made_again(
    ram: Files, hub: Hub, tmp_path: Path, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    _publish(ram, hub, monkeypatch)
    pull_it = ["models", "pull", "ram", "--keep", "-o", str(tmp_path / "out")]
    assert run_command(pull_it) == 0
    made = (tmp_path / "out" / "model.json").stat().st_mtime_ns
    hub.asked.clear()
    ram.checkpoint.unlink()
    for again in (
        pull_it,
        ["models", "import", str(ram.checkpoint), *ram.lists, "--keep", "-o", str(tmp_path / "out")],
    ):
        assert "there already, every byte checked" in tagstream(*again).done
    assert hub.asked == []
    assert (tmp_path / "out" / "model.json").stat().st_mtime_ns == made


def test_a_damaged_bundle_and_one_of_another_kind_are_not_kept(
    ram: Files, tmp_path: Path, tagstream: Tagstream
) -> None:
    assert ram.import_to(tmp_path / "out").code == 0
    pull_it = ["models", "pull", "ram-plus", "--keep", "-o", str(tmp_path / "out")]
    said = tagstream(*pull_it).fails()
    assert f"{tmp_path / 'out'} is a bundle of ram, not of ram_plus; choose another name." in said
    weights = next((tmp_path / "out").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    pull_it[2] = "ram"
    assert weights.name in tagstream(*pull_it).fails()


def test_keeping_and_replacing_are_not_both_done(ram: Files, tmp_path: Path) -> None:
    assert "give one of them" in ram.import_to(tmp_path / "out", "--keep", "--replace").fails()


def test_a_list_that_can_not_be_fetched_may_be_put_among_the_downloads(
    ram: Files, hub: Hub, tmp_path: Path, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    _publish(ram, hub, monkeypatch)
    name = "ram_tag_list_threshold.txt"
    del hub.files[f"lists/{name}"]
    pull_it = ["models", "pull", "ram", "--downloads", str(tmp_path / "downloads"), "-o", str(tmp_path / "out")]
    said = tagstream(*pull_it).fails(UNAVAILABLE)
    assert f"fetch {hub.endpoint}/lists/{name} (0 kB) on a machine that can, and put it into {tmp_path}" in said
    shutil.copy(ram.thresholds, tmp_path / "downloads" / name)
    assert run_command(pull_it) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_random_makes_a_bundle_and_says_that_it_means_nothing(kind: Kind, tmp_path: Path, tagstream: Tagstream) -> None:
    shown = tagstream("models", "random", WORDS[kind], "-o", tmp_path / "r", "--seed", "3").done
    bundle = Bundle.open(tmp_path / "r")
    assert (bundle.manifest.kind, bundle.manifest.provenance.random) == (kind, True)
    assert "RANDOM weights: its answers mean nothing" in shown


def test_random_refuses_a_vocabulary_of_another_model(tmp_path: Path, tagstream: Tagstream) -> None:
    (tmp_path / "vocab.txt").write_text("one\ntwo\n")
    arguments = ["models", "random", "tag2text", "--vocab", str(tmp_path / "vocab.txt"), "-o", str(tmp_path / "r")]
    assert "bert-base-uncased" in tagstream(*arguments).fails()
