import gc
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from tests.unit.models.small import CPU, small_bundle
from workers.models import cpu_layers
from workers.models.bundle import WEIGHTS, Bundle
from workers.models.cpu_layers import replace_layers
from workers.models.load import load_tagger
from workers.models.ram.engine import engine_of
from workers.models.tagger import sample_image


def test_layers_are_replaced_at_any_depth_but_below_one_that_stays() -> None:
    kept = nn.Sequential(nn.ReLU())
    module = nn.ModuleDict({"one": nn.ReLU(), "deep": nn.Sequential(nn.Sequential(nn.ReLU())), "kept": kept})
    asked: list[str] = []

    def replacement(name: str, layer: nn.Module) -> nn.Module | None:
        asked.append(name)
        if layer is kept:
            return layer
        return nn.GELU() if isinstance(layer, nn.ReLU) else None

    replace_layers(module, replacement)
    assert [type(layer) for layer in module.modules()] == [
        nn.ModuleDict, nn.GELU, nn.Sequential, nn.Sequential, nn.GELU, nn.Sequential, nn.ReLU,
    ]  # fmt: skip
    assert module["kept"] is kept
    assert asked == ["one", "deep", "0", "0", "kept"]


@pytest.mark.slow
@pytest.mark.skipif(not CPU.fuses("fp32"), reason="this build of torch has no fused layers")
@pytest.mark.parametrize(("kind", "precision"), [("compact", "fp32"), ("ram", "fp32"), ("ram", "int8")])
def test_weights_with_a_new_layout_leave_their_file(kind: str, precision: str, compact: Bundle, tmp_path: Path) -> None:
    """A parameter that is still mapped would keep pages of the file in memory."""
    bundle = compact if kind == "compact" else small_bundle("ram", tmp_path / "ram")
    read = bundle.weights()
    assert _is_mapped(bundle)
    del read
    tagger = load_tagger(bundle.folder, device="cpu", precision=precision)
    gc.collect()
    assert not _is_mapped(bundle)
    assert len(list(tagger.forward([sample_image(tagger.transform.size)]))) == 1


@pytest.mark.skipif(not CPU.fuses("fp32"), reason="this build of torch has no fused layers")
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_unchanged_large_parameter_is_shared_with_other_processes(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RAM++ has half a gigabyte of embeddings; of the file nothing else stays in memory."""
    bundle = small_bundle("ram_plus", tmp_path / "bundle")
    copied = load_tagger(bundle.folder, device="cpu", precision=precision)
    image = sample_image(copied.transform.size)
    right = np.stack(copied.forward([image]))
    del copied
    gc.collect()
    monkeypatch.setattr(cpu_layers, "SHARED_BYTES", bundle.weights()["label_embed"].nbytes)
    tagger = load_tagger(bundle.folder, device="cpu", precision=precision)
    gc.collect()
    assert _mapped_from(bundle) == 1
    engine = engine_of(bundle, CPU, precision)  # type: ignore[arg-type]
    inside = [name for name, tensor in engine.model.named_parameters() if _lies_in(bundle, tensor)]
    assert inside == ["label_embed"]
    assert np.array_equal(np.stack(tagger.forward([image])), right)


def _is_mapped(bundle: Bundle) -> bool:
    return _mapped_from(bundle) > 0


def _mapped_from(bundle: Bundle) -> int:
    return len(_ranges(bundle))


def _lies_in(bundle: Bundle, tensor: Tensor) -> bool:
    return any(begin <= tensor.data_ptr() < end for begin, end in _ranges(bundle))


def _ranges(bundle: Bundle) -> list[tuple[int, int]]:
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    found = [line[0].split("-") for line in lines if line[-1] == str(bundle.folder / WEIGHTS)]
    return [(int(begin, 16), int(end, 16)) for begin, end in found]
