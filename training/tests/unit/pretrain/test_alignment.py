"""itc and itm: equal to a literal computation, in one process and in two, resumed to the bit; and their complaints."""

import subprocess
import sys
from itertools import cycle, pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tagstream_train.data.images import Images
from tagstream_train.data.loader import Batch
from tagstream_train.data.samples import DataSet, Sample
from tagstream_train.export import Card, export
from tagstream_train.loop import Progress
from tagstream_train.pretrain import alignment
from tagstream_train.pretrain.alignment import Contrast, check_pairs, hard_negatives, new_part, queue_of
from tagstream_train.pretrain.objectives import Pretraining
from tagstream_train.pretrain.recipes import AlignmentPlan
from tagstream_train.pretrain.run import pretrain, write_bundle
from tagstream_train.pretrain.start import fresh
from tests.support.command import Tagstream
from tests.unit.models.small import SMALL
from tests.unit.models.test_alignment import aligned_bundle, literal
from training.tests.unit.drawings import drawings, tiny_run
from training.tests.unit.pretrain.aligning import PAIRS, TAGS, contrast, most_alike, pairs, step
from workers.errors import Misconfigured
from workers.models.ram.alignment import has_alignment, load_alignment
from workers.models.ram.importer import made_up_vocabulary
from workers.models.ram.wordpiece import WordPiece

ROOT = Path(__file__).parents[4]
WRONG_IMAGES, WRONG_TEXTS = [2, 0, 3, 1], [1, 3, 0, 2]


@pytest.fixture
def given_negatives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts first, as `losses` asks for them."""
    answers = cycle([torch.tensor(WRONG_TEXTS), torch.tensor(WRONG_IMAGES)])
    monkeypatch.setattr(alignment, "hard_negatives", lambda *_: next(answers))


def units(made: nn.Module, tokens: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors of images and texts by the weights of a network or its copy."""
    weights = {n.removeprefix("network."): t for n, t in made.state_dict().items() if n.startswith("network.")}
    own = {n.removeprefix("part."): t for n, t in made.state_dict().items() if n.startswith("part.")}
    texts = torch.stack([literal(weights, own, row[: int(m.sum())], None) for row, m in zip(ids, mask, strict=True)])
    image = tokens[:, 0] @ own["image_proj.weight"].T + own["image_proj.bias"]
    text = texts @ own["text_proj.weight"].T + own["text_proj.bias"]
    return image / image.norm(dim=1, keepdim=True), text / text.norm(dim=1, keepdim=True)


def literal_itc(made: Contrast, alpha: float, keys: Tensor | None) -> float:
    """Before the step, with the copies after their update."""
    images, ids, mask = pairs()
    image, text = units(made.aligned, made.aligned.network.encode(images), ids, mask)
    image_copy, text_copy = units(made.copies, made.copies.network.encode(images), ids, mask)
    temperature = float(made.aligned.part.temperature)
    total = 0.0
    of_pairs = torch.arange(PAIRS) + int(made.pairs) if keys is None else keys
    known = torch.cat((of_pairs, made.key_queue))
    for own, copy, others in (
        (image, image_copy, torch.cat((text_copy, made.text_queue))),
        (text, text_copy, torch.cat((image_copy, made.image_queue))),
    ):
        for row in range(PAIRS):
            opinion = [float(copy[row] @ other) / temperature for other in others]
            logits = [float(own[row] @ other) / temperature for other in others]
            right = [float(of_pairs[row] == key) for key in known]
            soft = torch.tensor(opinion, dtype=torch.float64).exp()
            chances = torch.tensor(logits, dtype=torch.float64).exp()
            target = alpha * soft / soft.sum() + (1 - alpha) * torch.tensor(right, dtype=torch.float64) / sum(right)
            total -= float((target * (chances / chances.sum()).log()).sum())
    return total / (2 * PAIRS)


def literal_itm(made: Contrast) -> float:
    images, ids, mask = pairs()
    tokens = made.aligned.network.encode(images)
    weights = made.aligned.network.state_dict()
    own = made.aligned.part.state_dict()
    right = [(row, row, 1) for row in range(PAIRS)]
    wrong = [(WRONG_IMAGES[row], row, 0) for row in range(PAIRS)] + [(row, WRONG_TEXTS[row], 0) for row in range(PAIRS)]
    total = 0.0
    for image, text, target in right + wrong:
        memory = tokens[image]
        if "tag_proj.weight" in own:
            labels = weights["label_embed"][TAGS[image]]
            memory = torch.cat((memory, labels @ own["tag_proj.weight"].T + own["tag_proj.bias"]))
        row = ids[text][: int(mask[text].sum())].clone()
        row[0] = 30523
        logits = literal(weights, own, row, memory) @ own["match.weight"].T + own["match.bias"]
        total -= float((logits.exp() / logits.exp().sum()).log()[target])
    return total / (3 * PAIRS)


@pytest.mark.slow
@pytest.mark.parametrize("tags", [True, False])
@pytest.mark.parametrize("keys", [None, [5, 6, 5, 7]])
@pytest.mark.usefixtures("given_negatives")
def test_losses_equal_a_literal_computation(tags: bool, keys: list[int] | None) -> None:
    made = contrast(tags=tags)
    own_keys = None if keys is None else torch.tensor(keys)
    with torch.no_grad():
        for number, alpha in enumerate((0.0, 0.1, 0.2)):  # ramped over four batches to 0.4
            for parameter in made.aligned.parameters():
                parameter.mul_(1.01)
            made._follow()
            wanted = {"itc": literal_itc(made, alpha, own_keys), "itm": literal_itm(made)}
            _unfollow(made)
            found = step(made, keys=own_keys)
            assert float(found["itc"]) == pytest.approx(wanted["itc"], abs=1e-6), number
            assert float(found["itm"]) == pytest.approx(wanted["itm"], abs=1e-6), number


def _unfollow(made: Contrast) -> None:
    own = dict(made.aligned.named_parameters())
    for name, copy in made.copies.named_buffers():
        if name in own:
            copy.sub_(own[name] * 0.005).div_(0.995)


@pytest.mark.slow
@pytest.mark.usefixtures("given_negatives")
def test_gradients_equal_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "MOMENTUM", 1.0)  # targets are constants to the gradient
    made = contrast()
    before = {name: getattr(made, name).clone() for name in ("image_queue", "text_queue", "key_queue", "pairs")}

    def total() -> Tensor:
        losses = step(made)
        for name, tensor in before.items():
            getattr(made, name).copy_(tensor)
        return losses["itc"] + losses["itm"]

    total().backward()  # type: ignore[no-untyped-call]
    names = [f"part.{name}" for name in ("temperature", "match.weight", "tag_proj.weight", "attention.1.qkv.weight")]
    names += ["part.image_proj.weight", "part.text_proj.bias", "network.label_embed"]
    names += ["network.head.layers.0.query.weight", "network.text.tag_encoder.cross.0.up.bias"]
    names += ["network.encoder.patches.project.bias"]
    parameters = dict(made.aligned.named_parameters())
    for name in names:
        parameter = parameters[name]
        assert parameter.grad is not None
        at = int(parameter.grad.abs().argmax())
        values = []
        for change in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.view(-1)[at] += change
                values.append(float(total()))
                parameter.view(-1)[at] -= change
        slope = (values[0] - values[1]) / 2e-6
        assert float(parameter.grad.view(-1)[at]) == pytest.approx(slope, rel=1e-4, abs=1e-8), name


@pytest.mark.slow
def test_copies_and_queues_equal_a_literal_computation_over_three_steps() -> None:
    made = contrast(queue=2 * PAIRS)
    copies = {name: tensor.clone() for name, tensor in made.copies.named_buffers()}
    own = dict(made.aligned.named_parameters())
    images, ids, mask = pairs()
    queues: list[list[Tensor]] = [list(made.image_queue.clone()), list(made.text_queue.clone())]
    with torch.no_grad():
        for number in range(3):
            for parameter in made.aligned.parameters():
                parameter.mul_(1.02)
            step(made)
            assert made.aligned.part.temperature <= 0.5
            for name, copy in copies.items():
                if name in own:
                    copies[name] = 0.995 * copy + 0.005 * own[name]
            found = dict(made.copies.named_buffers())
            assert all(torch.allclose(found[name], copy, rtol=0, atol=1e-12) for name, copy in copies.items())
            new = units(made.copies, made.copies.network.encode(images), ids, mask)
            for queue, rows in zip(queues, new, strict=True):
                for row in range(PAIRS):
                    queue[(number * PAIRS + row) % len(queue)] = rows[row]
            torch.testing.assert_close(made.image_queue, torch.stack(queues[0]), atol=1e-9, rtol=0)
            torch.testing.assert_close(made.text_queue, torch.stack(queues[1]), atol=1e-9, rtol=0)
    assert made.key_queue.tolist() == [8, 9, 10, 11, 4, 5, 6, 7]


@pytest.mark.slow
def test_copies_move_once_a_step_of_two_batches() -> None:
    made = contrast(accumulation=2)
    name = "part.match.weight"
    seen = []
    with torch.no_grad():
        for _ in range(4):
            made.aligned.part.match.weight.add_(1)
            step(made)
            seen.append(made.copies.get_buffer(name).clone())
    assert [torch.equal(one, other) for one, other in pairwise(seen)] == [True, False, True]


@pytest.mark.slow
def test_the_temperature_stays_within_its_bounds() -> None:
    made = contrast()
    for given, kept in ((3.0, 0.5), (1e-5, 0.001), (0.2, 0.2)):
        with torch.no_grad():
            made.aligned.part.temperature.fill_(given)
            step(made)
        assert made.aligned.part.temperature.item() == pytest.approx(kept)


@pytest.mark.slow
def test_hard_negatives_are_drawn_by_their_chances_and_are_never_right() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[9.0, 0.0, 1.0, 2.0]]).expand(20_000, -1)
    same = torch.tensor([[True, False, False, False]]).expand(20_000, -1)
    drawn = torch.bincount(hard_negatives(logits, same, 0.0), minlength=4) / 20_000
    wanted = torch.tensor([0.0, 1.0, 2.0, 3.0])
    wanted[1:] = torch.tensor([0.0, 1.0, 2.0]).softmax(dim=0)
    torch.testing.assert_close(drawn, wanted, atol=0.02, rtol=0)
    assert hard_negatives(torch.tensor([[500.0, -500.0]]), torch.tensor([[True, False]]), 0.0).tolist() == [1]


def test_a_batch_of_one_image_has_no_wrong_pair_to_draw() -> None:
    with pytest.raises(Misconfigured, match="set a larger batch"):
        hard_negatives(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool), 1e-4)


@pytest.mark.slow
def test_two_processes_take_negatives_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = [sys.executable, "-m", "training.tests.unit.ranks"]
    command = [*ranks, "training.tests.unit.pretrain.aligning", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    monkeypatch.setattr(alignment, "hard_negatives", most_alike)
    whole = contrast()
    losses = step(whole)
    (losses["itc"] + losses["itm"]).backward()  # type: ignore[no-untyped-call]
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, loss in losses.items():
        assert sum(half["losses"][name].item() for half in halves) / 2 == pytest.approx(loss.item(), abs=1e-9)
    for name, parameter in whole.named_parameters():
        if parameter.grad is not None:
            mean = sum(half["gradients"][name] for half in halves) / 2
            torch.testing.assert_close(mean, parameter.grad, atol=1e-9, rtol=1e-6, msg=name)
    for half in halves:
        for name, queue in half["queues"].items():
            torch.testing.assert_close(queue, getattr(whole, name), atol=1e-9, rtol=0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return drawings(tmp_path_factory.mktemp("drawings") / "set")


@pytest.mark.slow
def test_a_stopped_run_ends_with_the_same_weights_and_its_bundle_reads_sentences(
    dataset: DataSet, tmp_path: Path
) -> None:
    often = {"checkpoint_every": 1, "batch": 4, "ema": 0.5}
    run = tiny_run("tag2text", steps=2, stages=(32, 64), plan=often, alignment={"queue": 8}, dropout=0.2)

    def stop(stage: int, progress: Progress) -> None:
        if (stage, progress.step) == (2, 2):
            raise InterruptedError

    whole = pretrain(dataset, run, tmp_path / "whole", workers=0)
    assert {"tagging", "text", "itc", "itm", "total"} == set(whole.losses)
    with pytest.raises(InterruptedError):
        pretrain(dataset, run, tmp_path / "cut", workers=0, report=stop)
    told: list[tuple[int, int]] = []
    resumed = pretrain(dataset, run, tmp_path / "cut", workers=0, report=lambda *at: told.append((at[0], at[1].step)))
    assert told == [(2, 2)]
    assert whole.part is not None
    assert resumed.part is not None
    for mine, other in ((whole.model, resumed.model), (whole.part, resumed.part)):
        weights = mine.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in other.state_dict().items())
    bundle = write_bundle(resumed, tmp_path / "bundle", Images(dataset.folder), workers=0)
    alignment = load_alignment(bundle)
    assert alignment.sentences(["a red circle"]).shape == (1, 256)
    again = new_part(resumed.model, bundle, seed=9, tags=True).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in resumed.part.state_dict().items())


def test_what_itc_and_itm_can_not_learn_from_is_a_sentence() -> None:
    pair = [Sample(image="0.png", captions=("a",), sha256="0" * 64), Sample(image="1.png", sha256="1" * 64)]
    for samples, batch, complaint in (
        (pair[:1], 1, "a batch of 1 has none"),
        ([Sample(image="2.png", captions=("a",))], 2, r"2\.png has no sha256"),
        (pair, 2, r"1 of 2 images have no caption, e\.g\. '1\.png'"),
    ):
        with pytest.raises(Misconfigured, match=complaint):
            check_pairs(samples, batch)
    with pytest.raises(Misconfigured, match=r"no multiple of the 32 images .* set queue .* to 96"):
        queue_of(100, 1000, 32)
    assert [queue_of(None, images, 32) for images in (10**6, 1000, 3)] == [57_600, 480, 32]
    with pytest.raises(Misconfigured, match="Tag2Text's"):
        new_part(fresh(SMALL["ram_plus"], seed=0), None, seed=0, tags=True)


@pytest.mark.slow
def test_a_part_of_another_size_is_not_begun_with(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="another size"):
        new_part(fresh(SMALL["tag2text"], seed=0), aligned_bundle(tmp_path / "eight"), seed=0, tags=True)


@pytest.mark.slow
def test_a_bundle_of_the_same_network_keeps_the_part_and_another_loses_it(tmp_path: Path) -> None:
    parent = aligned_bundle(tmp_path / "parent")
    weights = parent.weights()
    for name, change, keeps in (("same", 0.0, True), ("other", 1e-3, False)):
        made = export(
            tmp_path / name,
            parent.manifest,
            weights={**weights, "class_bias": weights["class_bias"] + change},
            labels=parent.labels,
            card=Card(command="", data={}, plan={}, steps=0, images=0),
            vocabulary=parent.vocabulary.read_bytes(),
            beside=parent,
        )
        assert has_alignment(made) is keeps


def test_a_plan_without_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="tags"):
        AlignmentPlan.model_validate({"tags": "some"})


def test_the_command_line_says_whether_tags_guide(tagstream: Tagstream) -> None:
    for recipe, tags, shown in (
        ("tiny", None, ""),
        ("tiny", "none", 'tags = "none"\n'),
        ("small", "guided", "untagged = 0.2\n"),
        ("paper", "guided", "untagged = 0.0\n"),
    ):
        command = ["train", "pretrain", "set", "--model", "tag2text", "--recipe", recipe, "-o", "out", "--show"]
        said = tagstream(*command, *([] if tags is None else ["--tags", tags])).out
        _, heading, alignment = said.partition("[alignment]")
        assert (bool(heading), shown in alignment) == (tags is not None, True)


@pytest.mark.slow
def test_matching_is_shown_the_tags_that_training_recognises(monkeypatch: pytest.MonkeyPatch) -> None:
    made = contrast().float()
    network, shown, keys = made.aligned.network, list[list[list[int]]](), list[int]()

    def losses(*given: Tensor) -> dict[str, Tensor]:
        shown.append([sorted(int(tag) for tag in row if tag >= 0) for row in given[4]])
        keys.extend(given[5].tolist())
        return {"itc": torch.tensor(1.0), "itm": torch.tensor(2.0)}

    monkeypatch.setattr(made, "losses", losses)
    weights = {"itc": 0.5, "itm": 3.0}
    pieces = WordPiece(list(made_up_vocabulary()))
    objective = Pretraining(network, [f"l{n}" for n in range(60)], wordpiece=pieces, contrast=made, weights=weights)
    samples = tuple(
        Sample(image=f"{n}.png", captions=("a",), tags=tuple(range(n, 9)), sha256=f"{n // 2}" * 64)
        for n in range(PAIRS)
    )
    images = pairs()[0].float()
    found = objective.losses(Batch(images, samples))
    alone = Pretraining(network, [f"l{n}" for n in range(60)], wordpiece=pieces).losses(Batch(images, samples))
    assert found["total"].item() == pytest.approx(alone["total"].item() + 0.5 + 6.0, rel=1e-5)
    scores = network.score(network.encode(images))
    lowest = sorted(scores.flatten().tolist())[-(9 + 8 + 7 + 6)]
    all_tags = [[i for i in range(60) if row[i] >= lowest] for row in scores]
    assert shown == [all_tags]
    assert keys == [0, 0, 0x111111111111111, 0x111111111111111], "an image twice is no wrong pair of its own"
    some = Pretraining(network, [f"l{n}" for n in range(60)], wordpiece=pieces, contrast=made, untagged=0.5)
    torch.manual_seed(0)
    for _ in range(8):
        some.losses(Batch(images, samples))
    rows = [(row, every) for given in shown[1:] for row, every in zip(given, all_tags, strict=True)]
    assert all(row in ([], every) for row, every in rows)
    assert 0.3 < sum(not row for row, _ in rows) / len(rows) < 0.7
