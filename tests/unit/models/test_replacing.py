from __future__ import annotations

from torch import nn

from workers.models.replacing import replace_layers


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
