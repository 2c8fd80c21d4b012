from __future__ import annotations

import gc
from pathlib import Path

import pytest
from torch import nn

from tests.unit.models.small import CPU, small_bundle
from workers.models.bundle import WEIGHTS, Bundle
from workers.models.load import load_tagger
from workers.models.replacing import replace_layers
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


@pytest.mark.skipif(not CPU.fuses("fp32"), reason="this build of torch has no fused layers")
@pytest.mark.parametrize(("kind", "precision"), [("compact", "fp32"), ("ram", "fp32"), ("ram", "int8")])
def test_weights_that_were_laid_out_anew_leave_their_file(
    kind: str, precision: str, compact: Bundle, tmp_path: Path
) -> None:
    """A parameter that is still mapped would keep what was read of the file in memory."""
    bundle = compact if kind == "compact" else small_bundle("ram", tmp_path / "ram")
    read = bundle.weights()
    assert _is_mapped(bundle)
    del read
    tagger = load_tagger(bundle.folder, device="cpu", precision=precision)
    gc.collect()
    assert not _is_mapped(bundle)
    assert len(list(tagger.forward([sample_image(tagger.transform.size)]))) == 1


def _is_mapped(bundle: Bundle) -> bool:
    return str(bundle.folder / WEIGHTS) in Path("/proc/self/maps").read_text()
